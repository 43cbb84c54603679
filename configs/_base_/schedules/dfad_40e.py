# The paper's schedule for MNIST. Everything counts rounds; an "epoch" of the paper is 50.
optim_wrapper = dict(
    constructor='mmdfad.PlayerOptimWrapperConstructor',
    student=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=2000,
    imitation_steps=5,
    generation_steps=1,
    val_interval=50,
)
