# For two CPU cores: DeepLabV3-R18 to half its width, a quarter of the multiply-adds, on CamVid at 240x180.
_base_ = [
    '../_base_/datasets/camvid_small.py',
    '../_base_/generators/dcgan_128.py',
    '../_base_/schedules/dfad_25k.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmseg'
model = dict(
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
    start=dict(type='mmdfad.ChannelSelection'),
    generator=dict(image_size=(96, 128), width=32),
    # Without a strong prior, the generator collapses to one texture that both models label 'building'.
    generation=[
        dict(type='mmdfad.LogL1Discrepancy'),
        dict(type='mmdfad.BNStatisticsPrior', distance='kl', weight=10.0),
    ],
)
train_dataloader = dict(batch_size=8)
rounds = 500
optim_wrapper = dict(
    student=dict(amp_dtype='float32', clip_grad=dict(max_norm=1.0)),
    generator=dict(amp_dtype='bfloat16'),
)
schedule = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=rounds),
]
param_scheduler = dict(_delete_=True, student=schedule, generator=schedule)
train_cfg = dict(
    max_iters=rounds,
    phases=[dict(name='imitation', steps=2), dict(name='generation', steps=2)],
    val_interval=100,
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=100),
    acceleration=dict(inference_dtype='bfloat16'),
    synthetic_images=dict(interval=100),
    health=dict(interval=50),
)
