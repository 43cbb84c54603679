"""What the tools call."""

from .checkpoints import export_student, find_resumable_checkpoint, load_student_weights, require_whole_checkpoint
from .config import enable_amp, load_config, plain_student_config
from .validation import ensure_validation

__all__ = [
    'enable_amp',
    'ensure_validation',
    'export_student',
    'find_resumable_checkpoint',
    'load_config',
    'load_student_weights',
    'plain_student_config',
    'require_whole_checkpoint',
]
