# A narrow ResNet with three stages for CIFAR-10, trained on 4,000 images: a teacher that is often wrong.
_base_ = '../../../../configs/_base_/datasets/cifar10_images.py'
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[51.6, 50.8, 51.3], to_rgb=True, num_classes=10)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        type='mmpretrain.CustomDataset',
        data_root='data/cifar10/train_images',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.RandomCrop', crop_size=32, padding=4),
            dict(type='mmpretrain.RandomFlip', prob=0.5),
            dict(type='mmpretrain.PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=8, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=8)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=8))
randomness = dict(seed=0)
