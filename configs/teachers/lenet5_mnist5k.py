# A plain mmpretrain teacher for the demo: LeNet-5, trained on the 4,000 training digits of Mnist5k.
_base_ = 'mmpretrain::lenet/lenet5_mnist.py'
custom_imports = dict(imports=['mmdfad'], allow_failed_imports=False)

pipeline = [dict(type='Resize', scale=32), dict(type='mmpretrain.PackInputs')]
train_dataloader = dict(
    _delete_=True,
    batch_size=32,
    num_workers=0,
    dataset=dict(type='mmdfad.Mnist5k', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=200,
    num_workers=0,
    dataset=dict(type='mmdfad.Mnist5k', test_mode=True, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=5e-4))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=True, T_max=20, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=5)
default_hooks = dict(checkpoint=dict(interval=20))
randomness = dict(seed=0)
