# CamVid, resized to 256 pixels of height as in the paper. Only for validation and test.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(342, 256), keep_ratio=True),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.PackSegInputs'),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    dataset=dict(
        type='mmdfad.CamVidDataset', data_root='data/camvid', ann_file='test.txt', test_mode=True, pipeline=pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
