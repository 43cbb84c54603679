# For two CPU cores: DeepLabV3-R18 to half its width, a quarter of the multiply-adds, on CamVid at 240x180.
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from mmdfad.models.objectives import BNStatisticsPrior, LogL1Discrepancy
from mmdfad.models.starts import ChannelSelection

with read_base():
    from .._base_.datasets.camvid_small import *
    from .._base_.default_runtime import *
    from .._base_.generators.dcgan_128 import *
    from .._base_.schedules.dfad_25k import *

default_scope = 'mmseg'
model.update(
    teacher=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r18_camvid_small.py',
        checkpoint='work_dirs/deeplabv3_r18_camvid_small/epoch_60.pth',
        train_command='python tools/train.py configs/teachers/deeplabv3_r18_camvid_small.py --amp',
    ),
    student=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r18_camvid_small.py',
        cfg_options={
            'model.backbone.base_channels': 32,
            'model.backbone.stem_channels': 32,
            'model.decode_head.in_channels': 256,
            'model.decode_head.channels': 64,
            'model.auxiliary_head.in_channels': 128,
        },
    ),
    # The student starts with half of the teacher's channels.
    start=dict(type=ChannelSelection),
    # Without a strong prior, the generator collapses to one texture that both models label 'building'.
    generation=[dict(type=LogL1Discrepancy), dict(type=BNStatisticsPrior, distance='kl', weight=10.0)],
)
model.generator.update(image_size=(96, 128), width=32)
train_dataloader.update(batch_size=8)
rounds = 500
optim_wrapper.student.update(amp_dtype='float32', clip_grad=dict(max_norm=1.0))
optim_wrapper.generator.update(amp_dtype='bfloat16')
schedule = [
    dict(type=LinearLR, by_epoch=False, start_factor=0.01, end=20),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=20, end=rounds),
]
param_scheduler = dict(student=schedule, generator=schedule)
train_cfg.update(
    max_iters=rounds,
    phases=[dict(name='imitation', steps=2), dict(name='generation', steps=2)],
    val_interval=100,
)
default_hooks.update(
    logger=dict(interval=10),
    checkpoint=dict(interval=100),
    acceleration=dict(inference_dtype='bfloat16'),
    synthetic_images=dict(interval=100),
    health=dict(interval=50),
)
