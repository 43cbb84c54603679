# The DFAD paper's schedule for CIFAR: 25,000 rounds, which the paper counts as 500 epochs.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
)
param_scheduler = dict(
    student=[dict(type='MultiStepLR', by_epoch=False, milestones=[5000, 10000], gamma=0.1)],
    generator=[dict(type='MultiStepLR', by_epoch=False, milestones=[5000, 10000], gamma=0.1)],
)
train_cfg = dict(type='mmdfad.AdversarialDistillLoop', max_iters=25000, val_interval=500)
