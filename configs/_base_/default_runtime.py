# What every distillation shares. All intervals count rounds.
from importlib.util import find_spec

default_scope = 'mmdfad'
custom_imports = dict(imports=['mmdfad'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmdfad.DistillCheckpointHook', interval=1000, max_keep_ckpts=2),
)
custom_hooks = [
    dict(type='mmdfad.SyntheticImageHook', interval=1000),
    dict(type='mmdfad.TrainingHealthHook', interval=100),
    dict(type='mmdfad.ExportStudentHook'),
    dict(type='mmdfad.DistillSummaryHook'),
    dict(type='mmdfad.PreemptionHook'),
]
log_processor = dict(type='mmdfad.DistillLogProcessor', window_size=50)

vis_backends = [dict(type='LocalVisBackend')]
if find_spec('tensorboard'):
    vis_backends += [dict(type='TensorboardVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)

# On many ranks: student and generator in parallel, the teacher as it is.
model_wrapper_cfg = dict(type='mmdfad.DistributedDistiller')

env_cfg = dict(
    cudnn_benchmark=True,  # images never change their size
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
