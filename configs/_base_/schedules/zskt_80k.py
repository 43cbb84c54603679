# ZSKT's schedule for CIFAR-10: 80,000 rounds.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(optimizer=dict(type='Adam', lr=2e-3), clip_grad=dict(max_norm=5.0)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3), clip_grad=dict(max_norm=5.0)),
)
param_scheduler = dict(
    student=[dict(type='CosineAnnealingLR', by_epoch=False, end=80000)],
    generator=[dict(type='CosineAnnealingLR', by_epoch=False, end=80000)],
)
# All steps of a round share their noise. The generator learns first.
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=80000,
    noise='round',
    phases=[dict(name='generation', steps=1), dict(name='imitation', steps=10)],
    val_interval=800,
)
