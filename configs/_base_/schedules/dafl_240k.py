# DAFL's schedule for CIFAR: 240,000 rounds, which the paper counts as 2,000 epochs of 120.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=0.02)),
)
param_scheduler = dict(
    student=[dict(type='MultiStepLR', by_epoch=False, milestones=[96000, 192000], gamma=0.1)],
    generator=[],  # constant
)
# The student sees the images of a round before the generator's update, as in the joint step of the authors' code.
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=240000,
    noise='round',
    phases=[dict(name='imitation', steps=1), dict(name='generation', steps=1)],
    val_interval=2400,
)
