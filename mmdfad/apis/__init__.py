"""What the tools call."""

from .checkpoints import (
    export_student,
    find_resumable_checkpoint,
    load_student_weights,
    require_whole_checkpoint,
    set_resume,
)
from .config import (
    CfgOptions,
    add_agreement,
    check_settings,
    is_distillation,
    merge_options,
    plain_student_config,
    read_run,
    set_amp,
)
from .distill import write_distillation
from .distributed import finish_distributed, init_distributed
from .figure import draw_predictions
from .methods import METHODS
from .onnx import export_onnx
from .preflight import check_distillation
from .report import make_report
from .sizes import student_sizes
from .testing import augment_test, show_predictions
from .validation import ensure_validation, require_test_data
from .work_dir import claimed_work_dir

__all__ = [
    'METHODS',
    'CfgOptions',
    'add_agreement',
    'augment_test',
    'check_distillation',
    'check_settings',
    'claimed_work_dir',
    'draw_predictions',
    'ensure_validation',
    'export_onnx',
    'export_student',
    'find_resumable_checkpoint',
    'finish_distributed',
    'init_distributed',
    'is_distillation',
    'load_student_weights',
    'make_report',
    'merge_options',
    'plain_student_config',
    'read_run',
    'require_test_data',
    'require_whole_checkpoint',
    'set_amp',
    'set_resume',
    'show_predictions',
    'student_sizes',
    'write_distillation',
]
