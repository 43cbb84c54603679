# FastDFKD's schedule: 220 rounds, which the paper calls epochs. The student learns from the 21st on.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4)),
    generator=dict(optimizer=dict(type='Adam', lr=0.02, betas=(0.5, 0.999))),
)
param_scheduler = dict(
    student=[dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=220, eta_min=2e-4)],
    generator=[],  # constant
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=220,
    phases=[
        dict(name='generation', steps=1, student_bn_eval=True),
        dict(name='imitation', steps=400, begin=20),
    ],
    val_interval=10,
)
