"""Hooks."""

from .acceleration import AccelerationHook
from .checkpoint import DistillCheckpointHook
from .export import ExportStudentHook
from .health import TrainingHealthHook
from .logger import DistillLoggerHook
from .preemption import PreemptionHook
from .progress import ProgressHook
from .synthetic import SyntheticImageHook

__all__ = [
    'AccelerationHook',
    'DistillCheckpointHook',
    'DistillLoggerHook',
    'ExportStudentHook',
    'PreemptionHook',
    'ProgressHook',
    'SyntheticImageHook',
    'TrainingHealthHook',
]
