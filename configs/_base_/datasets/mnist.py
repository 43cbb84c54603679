# MNIST. Only for validation and test.
pipeline = [dict(type='Resize', scale=32), dict(type='mmpretrain.PackInputs')]
val_dataloader = dict(
    batch_size=512,
    num_workers=2,
    dataset=dict(type='mmpretrain.MNIST', data_root='data/mnist', split='test', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
