# The paper's schedule for CIFAR. Everything counts rounds; an "epoch" of the paper is 50.
optim_wrapper = dict(
    constructor='mmdfad.PlayerOptimWrapperConstructor',
    amp_dtype='auto',  # bf16 where the hardware computes it; --amp-dtype float32 for the paper's
    student=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
)
param_scheduler = dict(
    student=[dict(type='MultiStepLR', by_epoch=False, milestones=[5000, 10000], gamma=0.1)],
    generator=[dict(type='MultiStepLR', by_epoch=False, milestones=[5000, 10000], gamma=0.1)],
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=25000,
    imitation_steps=5,
    generation_steps=1,
    val_interval=500,
)
