"""Hooks."""

from .acceleration import AccelerationHook
from .checkpoint import DistillCheckpointHook
from .export import ExportStudentHook
from .health import TrainingHealthHook
from .preemption import PreemptionHook
from .summary import DistillSummaryHook
from .synthetic import SyntheticImageHook

__all__ = [
    'AccelerationHook',
    'DistillCheckpointHook',
    'DistillSummaryHook',
    'ExportStudentHook',
    'PreemptionHook',
    'SyntheticImageHook',
    'TrainingHealthHook',
]
