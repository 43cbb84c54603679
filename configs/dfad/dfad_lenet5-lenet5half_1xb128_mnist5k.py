# The demo: LeNet-5 to half its width on MNIST, in minutes on a CPU. Training uses no real image.
# The schedule is not the paper's: more imitation steps in a round, a slower generator, clipped student gradients and
# cosine decay for both. With this schedule, the last student is as good as the best one.
_base_ = [
    '../_base_/datasets/mnist5k.py',
    '../_base_/generators/upsample_32.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
model = dict(
    teacher=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        checkpoint='work_dirs/lenet5_mnist5k/epoch_20.pth',
        train_command='python tools/train.py configs/teachers/lenet5_mnist5k.py',
    ),
    student=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        cfg_options={'model.backbone.type': 'mmdfad.LeNet5Half'},
    ),
    generator=dict(noise_dim=100, channels=1, width=16),
)
train_dataloader = dict(batch_size=128)

rounds = 300
optim_wrapper = dict(
    constructor='mmdfad.DistillOptimWrapperConstructor',
    student=dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
        clip_grad=dict(max_norm=1.0),
    ),
    generator=dict(optimizer=dict(type='Adam', lr=3e-4)),
)
param_scheduler = dict(
    student=[
        dict(type='LinearLR', by_epoch=False, start_factor=0.01, end=10),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=rounds),
    ],
    generator=[dict(type='CosineAnnealingLR', by_epoch=False, end=rounds)],
)
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=rounds,
    phases=[dict(name='imitation', steps=10), dict(name='generation', steps=1)],
    val_interval=100,
)
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=100))
