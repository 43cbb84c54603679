# The demo: LeNet-5 to half its width on MNIST, in minutes on a CPU. Training uses no real image.
# The schedule is not the paper's: more imitation steps in a round, a slower generator, clipped student gradients and
# cosine decay for both. With this schedule, the last student is as good as the best one.
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import SGD, Adam

from mmdfad.engine import AdversarialDistillLoop, DistillOptimWrapperConstructor

with read_base():
    from .._base_.datasets.mnist5k import *
    from .._base_.default_runtime import *
    from .._base_.generators.upsample_32 import *

default_scope = 'mmpretrain'
model.update(
    teacher=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        checkpoint='work_dirs/lenet5_mnist5k/epoch_20.pth',
        train_command='python tools/train.py configs/teachers/lenet5_mnist5k.py',
    ),
    student=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        cfg_options={'model.backbone.type': 'mmdfad.LeNet5Half'},
    ),
)
model.generator.update(noise_dim=100, channels=1, width=16)
train_dataloader.update(batch_size=128)

rounds = 300
optim_wrapper = dict(
    constructor=DistillOptimWrapperConstructor,
    student=dict(
        optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4),
        clip_grad=dict(max_norm=1.0),
    ),
    generator=dict(optimizer=dict(type=Adam, lr=3e-4)),
)
param_scheduler = dict(
    student=[
        dict(type=LinearLR, by_epoch=False, start_factor=0.01, end=10),
        dict(type=CosineAnnealingLR, by_epoch=False, begin=10, end=rounds),
    ],
    generator=[dict(type=CosineAnnealingLR, by_epoch=False, end=rounds)],
)
train_cfg = dict(
    type=AdversarialDistillLoop,
    max_iters=rounds,
    phases=[dict(name='imitation', steps=10), dict(name='generation', steps=1)],
    val_interval=100,
)
auto_scale_lr.update(base_batch_size=128)
default_hooks.checkpoint.update(interval=100)
