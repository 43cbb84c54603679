"""What the tools call."""

from .checkpoints import (
    export_student,
    find_resumable_checkpoint,
    load_student_weights,
    require_whole_checkpoint,
    require_writable,
)
from .config import add_agreement, is_distillation, plain_student_config, set_amp
from .distill import write_distillation
from .figure import draw_predictions
from .ranks import join_ranks
from .validation import ensure_validation

__all__ = [
    'add_agreement',
    'draw_predictions',
    'ensure_validation',
    'export_student',
    'find_resumable_checkpoint',
    'is_distillation',
    'join_ranks',
    'load_student_weights',
    'plain_student_config',
    'require_whole_checkpoint',
    'require_writable',
    'set_amp',
    'write_distillation',
]
