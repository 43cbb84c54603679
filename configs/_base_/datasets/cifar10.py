# CIFAR-10. Only for validation and test.
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(
        type='mmpretrain.CIFAR10', data_root='data/cifar10', split='test', pipeline=[dict(type='mmpretrain.PackInputs')]
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
