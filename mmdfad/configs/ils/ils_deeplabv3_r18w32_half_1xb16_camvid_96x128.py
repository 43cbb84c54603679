# For two CPU cores: DeepLabV3-R18 of width 32 to half its width, on CamVid at 240x180.
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.camvid_small import *
    from .._base_.default_runtime import *
    from .._base_.methods.ils_seg import *

default_scope = 'mmseg'
model.update(
    teacher=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r18w32_camvid_small.py',
        checkpoint='work_dirs/deeplabv3_r18w32_camvid_small/epoch_30.pth',
        train_command='python tools/train.py configs/teachers/deeplabv3_r18w32_camvid_small.py',
    ),
    student=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r18w32_camvid_small.py',
        cfg_options={
            'model.backbone.base_channels': 16,
            'model.backbone.stem_channels': 16,
            'model.decode_head.in_channels': 128,
            'model.decode_head.channels': 32,
            'model.auxiliary_head.in_channels': 64,
        },
    ),
)
default_hooks.update(
    logger=dict(interval=10),
    checkpoint=dict(interval=28),
    synthetic_images=dict(interval=28),
    health=dict(interval=28),
)
