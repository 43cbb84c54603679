# The 1,000 test digits of Mnist5k, which needs no download. Only for validation and test.
pipeline = [dict(type='Resize', scale=32), dict(type='mmpretrain.PackInputs')]
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(type='mmdfad.Mnist5k', test_mode=True, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
