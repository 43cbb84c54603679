# What every distillation shares. All intervals count rounds.
from mmengine.hooks import IterTimerHook, ParamSchedulerHook
from mmengine.visualization import LocalVisBackend, Visualizer

from mmdfad.engine import (
    AccelerationHook,
    DistillCheckpointHook,
    DistillLoggerHook,
    DistillLogProcessor,
    ExportStudentHook,
    PreemptionHook,
    ProgressHook,
    SyntheticImageHook,
    TrainingHealthHook,
)
from mmdfad.models import DistributedDistiller
from mmdfad.reports import ReportHook

default_scope = 'mmdfad'
custom_imports = dict(imports=['mmdfad'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=DistillLoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=DistillCheckpointHook, interval=1000, max_keep_ckpts=2),
    acceleration=dict(type=AccelerationHook),
    synthetic_images=dict(type=SyntheticImageHook, interval=1000),
    health=dict(type=TrainingHealthHook, interval=100),
    export_student=dict(type=ExportStudentHook),
    preemption=dict(type=PreemptionHook),
    progress=dict(type=ProgressHook),
    report=dict(type=ReportHook),
)
log_processor = dict(type=DistillLogProcessor, window_size=50)
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])

# On many ranks.
model_wrapper_cfg = dict(type=DistributedDistiller)

env_cfg = dict(
    cudnn_benchmark=True,  # images never change their size
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
