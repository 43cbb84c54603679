# A ResNet with batch norms for the digits of Mnist5k.
_base_ = '../../../../configs/teachers/lenet5_mnist5k.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ResNet_CIFAR', depth=18, in_channels=1, base_channels=16, stem_channels=16, num_stages=4
    ),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=128),
)
param_scheduler = dict(T_max=6)
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(checkpoint=dict(interval=6))
