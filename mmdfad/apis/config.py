"""From a config file and flags to a config for the Runner."""

import copy
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from mmdfad.engine.optim import LEARNERS, amp_settings
from mmdfad.models.build import NETWORK_KEYS, plain_config
from mmdfad.utils import DistillError
from mmdfad.utils.config import own_metrics, read_config
from mmdfad.utils.export import student_config
from mmdfad.utils.migration import refuse_old_settings

from .schema import check_config

# The hooks that mmengine registers by itself. None in place of one of them removes it.
_STOCK_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


class CfgOptions(DictAction):
    """``--cfg-options KEY=VALUE ...``: mmengine's, with a message for what is not an option."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: list[str], option_string: str | None = None
    ) -> None:
        """See argparse."""
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes KEY=VALUE, such as train_cfg.max_iters=100, but found {value!r}')
        super().__call__(parser, namespace, values, option_string)


def read_run(path: str, cfg_options: dict | None = None) -> Config:
    """Read the config of a run: a distillation, or the training or test of a plain model.

    Args:
        path (str): A path or ``'package::folder/config.py'``.
        cfg_options (dict, optional): Settings by dotted key, which override those of the file.

    Raises:
        DistillError: If the config cannot be read, or was written for an earlier version of mmdfad.
    """
    cfg = read_config(path)
    merge_options(cfg, cfg_options)
    check_settings(cfg)
    return cfg


def merge_options(cfg: Config, cfg_options: dict | None) -> None:
    """Merge ``--cfg-options`` into a config.

    Args:
        cfg (Config): The config, changed in place.
        cfg_options (dict, optional): Settings by dotted key.

    Raises:
        DistillError: If they do not fit, such as a key below one that is not a dict.
    """
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError) as error:
        raise DistillError(f'--cfg-options do not fit the config: {error.args[0]}') from error


def check_settings(cfg: Config) -> None:
    """Refuse a distillation that was written for an earlier version of mmdfad, and drop hooks that are None.

    Args:
        cfg (Config): A distillation or a plain model's, changed in place.

    Raises:
        DistillError: If it was. The message lists the settings, and what to write instead.
    """
    if not isinstance(cfg.get('model'), dict):
        raise DistillError(f'the config must have a model, a dict with `type`, but found model={cfg.get("model")!r}')
    if not is_distillation(cfg):
        return
    refuse_old_settings(cfg)
    hooks = cfg.get('default_hooks', {})
    if not isinstance(hooks, dict):
        raise DistillError(f'default_hooks must be a dict of hooks by name, but found {hooks!r}')
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in _STOCK_HOOKS:  # mmengine knows only its own hooks by name, and fails here
            cfg.default_hooks.pop(name)
    _resolve_paths(cfg)
    check_config(cfg)


def _resolve_paths(cfg: Config) -> None:
    """Let a relative ``cfg_path`` count from the folder of the config, if there is such a file."""
    for role in ('teacher', 'student'):
        part = cfg.model.get(role)
        path = part.get('cfg_path') if isinstance(part, dict) else None
        if isinstance(path, str) and '::' not in path and cfg.filename:
            beside = Path(cfg.filename).parent / path
            if beside.is_file():
                part.cfg_path = str(beside.absolute())


def is_distillation(cfg: Config) -> bool:
    """Whether a config is a distillation. If not, it is a plain model's."""
    return 'student' in (cfg.get('model') or {})


def plain_student_config(cfg: Config) -> Config:
    """The student's plain config, with the run's test data if they are real.

    Args:
        cfg (Config): A distillation, or already a plain student.
    """
    if not is_distillation(cfg):
        return cfg
    student = copy.deepcopy(cfg.model.student)
    for key in NETWORK_KEYS:
        student.pop(key, None)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return student_config(cfg, plain_config(student, 'student', cfg.get('data_preprocessor')))


def add_agreement(run: Config, plain: Config) -> Config:
    """Let a test also measure the agreement with the teacher.

    Args:
        run (Config): The distillation.
        plain (Config): Its student, from :func:`plain_student_config`.

    Returns:
        Config: ``plain`` with the whole distiller as its model, and with one more metric.

    Raises:
        DistillError: If ``run`` is not a distillation, so that there is no teacher.
    """
    if not is_distillation(run):
        raise DistillError("--agreement needs the teacher: give the distillation's config instead of the student's")
    cfg = copy.deepcopy(plain)
    cfg.model = copy.deepcopy(run.model)
    cfg.model.val_agreement = True
    cfg.data_preprocessor = run.get('data_preprocessor')
    cfg.test_evaluator = [*own_metrics(cfg.test_evaluator), dict(type='mmdfad.AgreementMetric')]
    return cfg


def set_amp(cfg: Config, dtype: str) -> None:
    """Set the type that training computes in, see :class:`~mmdfad.engine.DistillOptimWrapperConstructor`.

    Args:
        cfg (Config): A distillation or a plain model's, changed in place.
        dtype (str): ``'float32'``, ``'bfloat16'``, ``'float16'`` or ``'auto'``.

    Raises:
        DistillError: If the device cannot compute in it.
    """
    if not is_distillation(cfg):
        cfg.optim_wrapper.update(amp_settings(dtype, torch.device(get_device())))
        return
    wrappers = cfg.get('optim_wrapper')
    if not isinstance(wrappers, dict):
        return  # check_settings says what is missing
    wrappers.amp_dtype = dtype
    for part in (wrappers.get(name) for name in LEARNERS):
        if isinstance(part, dict):
            for key in ('type', 'amp_dtype'):
                part.pop(key, None)
