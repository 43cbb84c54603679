# A small ConvNeXt, with layer norms, for the digits of Mnist5k.
_base_ = '../../../../configs/teachers/vit_mnist5k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch=dict(depths=[1, 1, 2, 1], channels=[16, 32, 48, 64]),
        in_channels=1,
        stem_patch_size=4,
    ),
    head=dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=64),
)
