# The schedule of ILS: 60 rounds in which the generator learns, then 200 in which the student imitates.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    amp_dtype='auto',
    student=dict(
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
        clip_grad=dict(max_norm=0.5),
    ),
    generator=dict(optimizer=dict(type='Adam', lr=2e-3, betas=(0.5, 0.999))),
)
param_scheduler = dict(
    student=[dict(type='CosineAnnealingLR', by_epoch=False, begin=60, end=261)],
    generator=[],  # constant
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=260,
    phases=[dict(name='generation', end=60), dict(name='imitation', steps=10, begin=60)],
    val_begin=61,  # before its start there is nothing to validate
    val_interval=40,
)
