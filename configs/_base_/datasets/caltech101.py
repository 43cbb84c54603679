# Caltech-101 at 128x128. Only for validation and test.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128)),
    dict(type='mmpretrain.PackInputs'),
]
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    dataset=dict(type='mmpretrain.Caltech101', data_root='data/caltech-101', split='test', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
