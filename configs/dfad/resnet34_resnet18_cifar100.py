# DFAD, table 1: ResNet-34 to ResNet-18 on CIFAR-100.
_base_ = [
    '../_base_/datasets/cifar100.py',
    '../_base_/generators/upsample_32.py',
    '../_base_/schedules/dfad_500e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
model = dict(
    # OpenMMLab publishes no ResNet-34 of CIFAR-100. Train one with the command in README.md beside this file.
    teacher=dict(
        cfg_path='mmpretrain::resnet/resnet50_8xb16_cifar100.py',
        cfg_options={'model.backbone.depth': 34, 'model.head.in_channels': 512},
        checkpoint='work_dirs/resnet34_cifar100/epoch_200.pth',
    ),
    student=dict(
        cfg_path='mmpretrain::resnet/resnet50_8xb16_cifar100.py',
        cfg_options={'model.backbone.depth': 18, 'model.head.in_channels': 512},
    ),
)
