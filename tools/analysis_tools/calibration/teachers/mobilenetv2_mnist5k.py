# A MobileNetV2 of a quarter of the width, on the digits of Mnist5k at twice their size.
_base_ = '../../../../configs/teachers/lenet5_mnist5k.py'
pipeline = [dict(type='Resize', scale=64), dict(type='mmpretrain.PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=0.25),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=1280),
    data_preprocessor=dict(mean=[33.46], std=[78.87]),
)
