# DFQ: ResNet-34 to ResNet-18 on CIFAR-10.
_base_ = [
    '../_base_/datasets/cifar10.py',
    '../_base_/methods/dfq.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
model = dict(
    teacher=dict(
        cfg_path='mmpretrain::resnet/resnet34_8xb16_cifar10.py',
        checkpoint='https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet34_b16x8_cifar10_20210528-a8aa36a6.pth',
    ),
    student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb16_cifar10.py'),
)
