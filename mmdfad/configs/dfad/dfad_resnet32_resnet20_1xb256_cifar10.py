# ResNet-32 to ResNet-20 in the narrow CIFAR form. Both are plain torch modules from outside OpenMMLab.
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.cifar10_images import *
    from .._base_.default_runtime import *
    from .._base_.generators.upsample_32 import *
    from .._base_.schedules.dfad_25k import *

default_scope = 'mmpretrain'
model.update(
    teacher=dict(
        cfg_path='mmdfad::../examples/resnet32_cifar10.py',
        checkpoint='data/cifar10/resnet32.pth',
        train_command='# resnet32 from https://github.com/akamaster/pytorch_resnet_cifar10',
    ),
    student=dict(cfg_path='mmdfad::../examples/resnet20_cifar10.py'),
)
