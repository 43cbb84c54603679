"""Building what a method is made of: generators, objectives and starts."""

from collections.abc import Mapping
from typing import Any

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


def build_part(cfg: Any, key: str) -> Any:
    """Build a part of a method. Types without a scope are mmdfad's.

    Args:
        cfg (Any): A dict with ``type``, or a part that is already built.
        key (str): Where it stands in the config, for messages: ``'model.generator'``.

    Raises:
        DistillError: If the type is unknown or does not take the arguments.
    """
    if not isinstance(cfg, Mapping):
        if hasattr(cfg, 'forward') or hasattr(cfg, 'apply'):
            return cfg
        raise DistillError(f'{key} must be a dict with `type`, but found {cfg!r}')
    if 'type' not in cfg:
        raise DistillError(f'{key} must have a `type`, but found the keys {sorted(cfg)}')
    try:
        return MODELS.build(dict(cfg, _scope_=cfg.get('_scope_', 'mmdfad')))
    except (KeyError, TypeError) as error:
        raise DistillError(
            f'cannot build {key}={dict(cfg)}: {error.args[0] if error.args else error}\n'
            f'mmdfad has: {", ".join(sorted(MODELS.module_dict))}'
        ) from error
