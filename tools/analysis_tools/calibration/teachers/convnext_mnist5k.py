# A small ConvNeXt, with layer norms, for the digits of Mnist5k.
_base_ = '../../../../configs/teachers/vit_mnist5k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch=dict(depths=[2, 2, 2], channels=[32, 64, 128]),
        in_channels=1,
        stem_patch_size=2,
    ),
    head=dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=128),
)
