# The DFAD paper's schedule for MNIST: 2,000 rounds, which the paper counts as 40 epochs.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
)
train_cfg = dict(type='mmdfad.AdversarialDistillLoop', max_iters=2000, val_interval=50)
