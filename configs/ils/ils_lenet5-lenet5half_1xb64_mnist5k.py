# LeNet-5 to half its width on MNIST. LeNet-5 has no batch norm, so an adversary makes most of the images.
_base_ = [
    '../_base_/datasets/mnist5k.py',
    '../_base_/methods/ils.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
rounds = 300
shape = dict(noise_dim=256, image_size=(32, 32), channels=1)
procedural = dict(
    type='mmdfad.MixtureGenerator',
    generators=[dict(type='mmdfad.Strokes', **shape), dict(type='mmdfad.DeadLeaves', **shape)],
    shares=[3, 1],
)
model = dict(
    teacher=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        checkpoint='work_dirs/lenet5_mnist5k/epoch_20.pth',
        train_command='python tools/train.py configs/teachers/lenet5_mnist5k.py',
    ),
    student=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py', cfg_options={'model.backbone.type': 'mmdfad.LeNet5Half'}
    ),
    generator=dict(
        _delete_=True,
        type='mmdfad.MixtureGenerator',
        generators=[
            dict(type='mmdfad.UpsampleGenerator', **shape, width=16),
            dict(type='mmdfad.ImageBank', **shape, count=4096, fixed=True, candidates=8, init=procedural),
        ],
        shares=[3, 1],
    ),
    generation=[dict(type='mmdfad.L1Discrepancy')],
    start=dict(begin=0),
    imitation=[dict(type='mmdfad.L1Discrepancy')],
)
optim_wrapper = dict(
    student=dict(
        optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
    ),
    generator=dict(optimizer=dict(_delete_=True, type='Adam', lr=3e-4)),
)
decay = dict(type='CosineAnnealingLR', by_epoch=False, end=rounds + 1)
param_scheduler = dict(_delete_=True, student=[decay], generator=[decay])
train_cfg = dict(
    max_iters=rounds,
    phases=[dict(name='imitation', steps=10), dict(name='generation')],
    val_begin=1,
    val_interval=60,
)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=30), synthetic_images=dict(interval=30), health=dict(interval=30)
)
