# The schedule of ILS: 40 rounds that move the pixels of all images, then 200 in which the student imitates.
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(
        optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
        clip_grad=dict(max_norm=0.5),
    ),
    generator=dict(optimizer=dict(type='Adam', lr=0.03, betas=(0.5, 0.9))),
)
param_scheduler = dict(
    student=[dict(type='CosineAnnealingLR', by_epoch=False, begin=40, end=241)],
    generator=[dict(type='CosineAnnealingLR', by_epoch=False, end=40)],
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=240,
    phases=[dict(name='generation', end=40), dict(name='imitation', steps=10, begin=40)],
    val_begin=41,  # before its start there is nothing to validate
    val_interval=40,
)
