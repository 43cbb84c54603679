"""Reading mm configs, from files and from packages."""

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .compat import OPTIONAL, check_package, explain
from .errors import DistillError


def read_config(path: str, key: str = 'the config') -> Config:
    """Read a config.

    Args:
        path (str): A path, or ``'package::folder/config.py'`` for a config of an OpenMMLab package.
        key (str): How the message names it. Defaults to 'the config'.

    Raises:
        DistillError: If it cannot be read. The message has the reason.
    """
    if not isinstance(path, str | Path):
        raise DistillError(f'{key} must be a path, but found {path!r}')
    package, colons, inside = str(path).partition('::')
    try:
        if not colons:
            return Config.fromfile(path)
        if package in OPTIONAL:
            check_package(package)
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # mmengine would try to install it
            raise ImportError(f'package {package} is not installed')
        # mmengine.hub.get_config finds the same file, but first reads the metafiles of all models of the package.
        return Config.fromfile(Path(spec.origin).parent / '.mim/configs' / inside)
    except Exception as error:  # a config is a program: it can fail in any way
        reason = explain(error).partition(', the current sys.path is')[0]  # sys.path is long and does not help
        raise DistillError(
            f'cannot read {key} {path}: {type(error).__name__}: {reason}. Expected a path to a config, or '
            "'package::folder/config.py'"
        ) from error


def own_metrics(evaluator: Any) -> list:
    """The metrics of an evaluator that a model without a teacher has, too.

    Args:
        evaluator (Any): The config of a metric, or several.
    """
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in metrics if not str(metric.get('type')).endswith('AgreementMetric')]


def with_type_names(cfg: Any) -> Any:
    """A copy of a config with the names of classes and functions in their place.

    Pure-Python configs have classes for types. Names can be written to a file, and mmengine builds both.

    Args:
        cfg (Any): A config, or a value in one.

    Returns:
        Any: The copy, with plain dicts: ``dict(type='mmpretrain.models.heads.linear_head.LinearClsHead')``.
    """
    if isinstance(cfg, Mapping):
        return {key: with_type_names(value) for key, value in cfg.items()}
    if isinstance(cfg, list | tuple):
        return type(cfg)(with_type_names(value) for value in cfg)
    if inspect.isclass(cfg) or inspect.isfunction(cfg):
        return f'{cfg.__module__}.{cfg.__qualname__}'
    return cfg


def custom_imports(cfg: Config) -> list[str]:
    """The modules that a config imports for its own types."""
    imports = (cfg.get('custom_imports') or {}).get('imports', [])
    return [imports] if isinstance(imports, str) else list(imports)


def innermost_dataset(dataset: dict) -> dict:
    """The dataset inside wrappers such as ``RepeatDataset``. Of several, as in ``ConcatDataset``, it is the first.

    Args:
        dataset (dict): The config of a dataset.
    """
    while True:
        inner = dataset.get('dataset', next(iter(dataset.get('datasets') or ()), None))
        if not isinstance(inner, dict):
            return dataset
        dataset = inner


def is_noise(dataset: dict) -> bool:
    """Whether the config of a dataset is one of noise, which needs no files."""
    return any(name in str(dataset.get('type')) for name in ('NoiseDataset', 'ProbeDataset'))
