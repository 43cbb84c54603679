# DFQ's schedule for CIFAR: 8,000 rounds, which count as 200 epochs of 40.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.5, 0.999))),
)
param_scheduler = dict(
    student=[dict(type='CosineAnnealingLR', by_epoch=False, end=8000)],
    generator=[],  # constant
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=8000,
    phases=[dict(name='generation', steps=1, student_bn_eval=True), dict(name='imitation', steps=10)],
    val_interval=400,
)
