# A smaller teacher for two CPU cores: DeepLabV3 for CamVid at 240x180, with a ResNet-18 of half the width.
_base_ = 'deeplabv3_r18_camvid_small.py'
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    decode_head=dict(in_channels=256, channels=64),
    auxiliary_head=dict(in_channels=128),
)
param_scheduler = [
    dict(type='LinearLR', by_epoch=True, start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=30, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30)
