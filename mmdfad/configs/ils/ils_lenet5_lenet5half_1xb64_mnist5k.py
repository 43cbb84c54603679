# LeNet-5 to half its width on MNIST. LeNet-5 has no batch norm, so an adversary makes most of the images.
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from torch.optim import SGD, Adam

from mmdfad.models.generators import DeadLeaves, ImageBank, MixtureGenerator, Strokes, UpsampleGenerator
from mmdfad.models.objectives import L1Discrepancy

with read_base():
    from .._base_.datasets.mnist5k import *
    from .._base_.default_runtime import *
    from .._base_.methods.ils import *

default_scope = 'mmpretrain'
rounds = 300
shape = dict(noise_dim=256, image_size=(32, 32), channels=1)
procedural = dict(
    type=MixtureGenerator,
    generators=[dict(type=Strokes, **shape), dict(type=DeadLeaves, **shape)],
    shares=[3, 1],
)
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
    start=dict(begin=0),
    generation=[dict(type=L1Discrepancy)],
    imitation=[dict(type=L1Discrepancy)],
)
model.generator = dict(
    type=MixtureGenerator,
    generators=[
        dict(type=UpsampleGenerator, **shape, width=16),
        dict(type=ImageBank, **shape, count=4096, fixed=True, candidates=8, init=procedural),
    ],
    shares=[3, 1],
)
optim_wrapper.student = dict(
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
optim_wrapper.generator.optimizer = dict(type=Adam, lr=3e-4)
decay = dict(type=CosineAnnealingLR, by_epoch=False, end=rounds + 1)
param_scheduler = dict(student=[decay], generator=[decay])
train_cfg.update(
    max_iters=rounds,
    phases=[dict(name='imitation', steps=10), dict(name='generation')],
    val_begin=1,
    val_interval=60,
)
default_hooks.update(
    logger=dict(interval=10),
    checkpoint=dict(interval=30),
    synthetic_images=dict(interval=30),
    health=dict(interval=30),
)
