"""Where a student comes from."""

import json
from functools import cache
from importlib import metadata

from mmengine.config import Config

from mmdfad.version import __version__

from .compat import DISTRIBUTIONS, installed
from .config import with_type_names

_METHOD = ('generator', 'generation', 'imitation', 'start')


@cache  # every checkpoint asks for them
def versions() -> dict[str, str | None]:
    """The versions of mmdfad, torch and the OpenMMLab packages, by name. None stands for what is not installed."""
    found = {name: installed(name) for name in DISTRIBUTIONS}
    packages = {name: metadata.version(names[0]) if names else None for name, names in found.items()}
    return dict(mmdfad=__version__, torch=metadata.version('torch'), **packages)


def provenance(cfg: Config, teacher: dict[str, str | None]) -> dict:
    """What an exported student tells about its origin, in plain values.

    Args:
        cfg (Config): The config of the distillation.
        teacher (dict[str, str | None]): The teacher's ``checkpoint`` and the ``sha256`` of its weights.

    Returns:
        dict: ``teacher``; ``method``, the parts of the config that make it; ``config``, the name of its file; and
        ``versions``.
    """
    model = with_type_names(cfg.to_dict())['model']
    # Parts that a program has built leave their names.
    text = json.dumps({key: model[key] for key in _METHOD if key in model}, default=lambda part: type(part).__name__)
    method = json.loads(text)
    return dict(teacher=teacher, method=method, config=cfg.filename, versions=versions())
