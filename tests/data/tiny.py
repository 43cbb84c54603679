# Small real models and few rounds: a distillation of seconds that has everything a real one has.
_base_ = [
    '../../configs/_base_/generators/upsample_32.py',
    '../../configs/_base_/schedules/dfad_2k.py',
    '../../configs/_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
classifier = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=64, loss=dict(type='CrossEntropyLoss')),
    data_preprocessor=dict(mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True),
)
model = dict(
    teacher=dict(**classifier, checkpoint=None),
    student=dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32, loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=False),
    ),
    generator=dict(noise_dim=16, image_size=16, width=16),
)
train_dataloader = dict(batch_size=8)
param_scheduler = dict(
    student=[dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=3)],
    generator=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=20, end=20)],
)
train_cfg = dict(max_iters=6, val_share=1, phases=[dict(name='imitation', steps=2), dict(name='generation', steps=1)])
default_hooks = dict(
    checkpoint=dict(interval=2, max_keep_ckpts=2), logger=dict(interval=1), report=dict(latency_seconds=0.1)
)
