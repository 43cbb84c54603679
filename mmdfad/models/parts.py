"""Building what a method is made of: generators, objectives and starts."""

from collections.abc import Mapping
from typing import Any

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


def build_part(cfg: Any, key: str, kind: type) -> Any:
    """Build a part of a method. Types without a scope are mmdfad's.

    Args:
        cfg (Any): A dict with ``type``, or a part that is already built.
        key (str): Where it stands in the config, for messages: ``'model.generator'``.
        kind (type): The base class of such parts.

    Raises:
        DistillError: If the type is unknown, of another kind, or does not take the arguments.
    """
    if isinstance(cfg, kind):
        return cfg
    if not isinstance(cfg, Mapping):
        raise DistillError(f'{key} must be a dict with `type`, but found {cfg!r}')
    if 'type' not in cfg:
        raise DistillError(f'{key} must have a `type`, but found the keys {sorted(cfg)}')
    try:
        part = MODELS.build(dict(cfg, _scope_=cfg.get('_scope_', 'mmdfad')))
    except DistillError as error:
        # Generators name their own settings as if they were the outermost ones.
        raise DistillError(str(error).replace('model.generator.', f'{key}.')) from error
    except (KeyError, TypeError) as error:
        raise DistillError(
            f'cannot build {key}={dict(cfg)}: {error.args[0] if error.args else error}\n'
            f'mmdfad has: {", ".join(sorted(MODELS.module_dict))}'
        ) from error
    if not isinstance(part, kind):
        raise DistillError(f'{key} must be a kind of {kind.__name__}, but {type(part).__name__} is not')
    return part
