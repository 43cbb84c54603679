# A DeepLabV3-R18 to one of half the width (a quarter of the multiply-adds) on CamVid at 240x180, for two CPU cores.
_base_ = [
    '../_base_/datasets/camvid_small.py',
    '../_base_/generators/dcgan_128.py',
    '../_base_/schedules/dfad_300e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmseg'
model = dict(
    teacher=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r18_camvid_small.py',
        checkpoint='work_dirs/deeplabv3_r18_camvid_small/epoch_40.pth',
        recipe='python tools/train.py configs/teachers/deeplabv3_r18_camvid_small.py',
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
    generator=dict(image_size=(96, 128), width=32),
    generation_loss=dict(type='mmdfad.LogL1Discrepancy'),
)
train_dataloader = dict(batch_size=8)
