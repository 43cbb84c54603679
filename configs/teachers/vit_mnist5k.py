# A small vision transformer, trained on the 4,000 training digits of Mnist5k: a teacher without batch norm.
_base_ = './lenet5_mnist5k.py'
pipeline = [
    dict(type='mmpretrain.RandomResizedCrop', scale=32, crop_ratio_range=(0.7, 1.0)),
    dict(type='mmpretrain.PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=6, num_heads=4, feedforward_channels=256),
        img_size=32,
        patch_size=4,
        in_channels=1,
    ),
    neck=None,
    head=dict(_delete_=True, type='VisionTransformerClsHead', num_classes=10, in_channels=64),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, T_max=28, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30)
default_hooks = dict(checkpoint=dict(interval=30))
