"""From a config file and flags to what a Runner takes."""

import copy

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from mmdfad.engine.optim import PLAYERS, amp_settings
from mmdfad.models.players import PLAYER_KEYS, plain_config
from mmdfad.utils import DistillError
from mmdfad.utils.export import student_config


def is_distillation(cfg: Config) -> bool:
    """Whether a config is a distillation, rather than a plain model's."""
    return 'student' in (cfg.get('model') or {})


def plain_student_config(cfg: Config) -> Config:
    """The student's plain config, with the run's real test data if it has any.

    Args:
        cfg (Config): A distillation, or already a plain student.
    """
    if not is_distillation(cfg):
        return cfg
    student = copy.deepcopy(cfg.model.student)
    for key in PLAYER_KEYS:
        student.pop(key, None)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return student_config(cfg, plain_config(student, 'student', cfg.get('data_preprocessor')))


def add_agreement(run: Config, plain: Config) -> Config:
    """Let a test measure the agreement with the teacher beside the config's own metrics.

    Args:
        run (Config): The distillation.
        plain (Config): Its student, from :func:`plain_student_config`.

    Returns:
        Config: ``plain`` with the whole distiller as its model, and one more metric.

    Raises:
        DistillError: If ``run`` is no distillation: the teacher is not known.
    """
    if not is_distillation(run):
        raise DistillError("--agreement needs the distillation's config, which names the teacher")
    cfg = copy.deepcopy(plain)
    cfg.model = copy.deepcopy(run.model)
    cfg.model.val_agreement = True
    cfg.data_preprocessor = run.get('data_preprocessor')
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    cfg.test_evaluator = [*metrics, dict(type='mmdfad.AgreementMetric')]
    return cfg


def set_amp(cfg: Config, dtype: str) -> None:
    """Let a config compute in a type; see :class:`~mmdfad.engine.PlayerOptimWrapperConstructor`.

    Args:
        cfg (Config): A distillation or a plain model's, changed in place.
        dtype (str): ``'float32'``, ``'bfloat16'``, ``'float16'`` or ``'auto'``.

    Raises:
        DistillError: If the device cannot.
    """
    if not is_distillation(cfg):
        cfg.optim_wrapper.update(amp_settings(dtype, torch.device(get_device())))
        return
    cfg.optim_wrapper.amp_dtype = dtype
    for player in PLAYERS:
        for key in ('type', 'amp_dtype'):
            cfg.optim_wrapper[player].pop(key, None)
