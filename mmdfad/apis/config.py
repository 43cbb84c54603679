"""From a config file and flags to what a Runner takes."""

import copy

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope

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


def enable_amp(cfg: Config) -> None:
    """Switch each optimizer of a config to mixed precision, on the device that is there.

    On an accelerator that is mmengine's ``AmpOptimWrapper`` with dynamic loss scaling, on CPUs bf16 autocast.

    Args:
        cfg (Config): The config, changed in place.
    """
    amp = dict(type='mmdfad.CPUAmpOptimWrapper') if get_device() == 'cpu' else dict(type='AmpOptimWrapper')
    wrappers = cfg.optim_wrapper
    for wrapper in [wrappers[p] for p in ('student', 'generator')] if is_distillation(cfg) else [wrappers]:
        wrapper.update(amp)
        if amp['type'] == 'AmpOptimWrapper':
            wrapper.setdefault('loss_scale', 'dynamic')
