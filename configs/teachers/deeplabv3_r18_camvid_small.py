# A teacher for two CPU cores: a small DeepLabV3 for CamVid at 240x180.
_base_ = 'deeplabv3_r50_camvid.py'
data_preprocessor = dict(size=(144, 192))
# 1 / sqrt(share of the training labels) for each class, because poles and signs are rare.
class_weight = [0.87, 0.75, 3.63, 0.64, 1.70, 1.15, 3.32, 3.39, 1.49, 4.50, 6.66]
model = dict(
    pretrained=None,
    data_preprocessor=data_preprocessor,
    backbone=dict(depth=18, norm_cfg=dict(type='BN')),
    decode_head=dict(
        in_channels=512,
        channels=128,
        dilations=(1, 3, 6, 9),
        norm_cfg=dict(type='BN'),
        loss_decode=dict(class_weight=class_weight),
    ),
    auxiliary_head=dict(
        in_channels=256, channels=64, norm_cfg=dict(type='BN'), loss_decode=dict(class_weight=class_weight)
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(0.75, 1.75), keep_ratio=True),
    dict(type='mmseg.RandomCrop', crop_size=(144, 192), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmseg.PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations'), dict(type='mmseg.PackSegInputs')]
small = dict(data_root='data/camvid_small')
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(**small, pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(**small, ann_file='val.txt', pipeline=test_pipeline))
test_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(**small, pipeline=test_pipeline))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', by_epoch=True, start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=60, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=60, val_interval=10)
randomness = dict(seed=0)
