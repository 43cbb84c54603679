# DFAD, table 1: ResNet-34 to ResNet-18 on CIFAR-100.
_base_ = [
    '../_base_/datasets/cifar100.py',
    '../_base_/generators/upsample_32.py',
    '../_base_/schedules/dfad_25k.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
model = dict(
    teacher=dict(
        cfg_path='mmpretrain::resnet/resnet50_8xb16_cifar100.py',
        cfg_options={'model.backbone.depth': 34, 'model.head.in_channels': 512},
        checkpoint='work_dirs/resnet34_cifar100/epoch_200.pth',
        train_command='python tools/train.py mmpretrain::resnet/resnet50_8xb16_cifar100.py '
        '--work-dir work_dirs/resnet34_cifar100 --cfg-options model.backbone.depth=34 model.head.in_channels=512',
    ),
    student=dict(
        cfg_path='mmpretrain::resnet/resnet50_8xb16_cifar100.py',
        cfg_options={'model.backbone.depth': 18, 'model.head.in_channels': 512},
    ),
)
