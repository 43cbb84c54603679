# DFAD, table 1: ResNet-34 to ResNet-18 on Caltech-101.
_base_ = [
    '../_base_/datasets/caltech101.py',
    '../_base_/generators/dcgan_128.py',
    '../_base_/schedules/dfad_15k.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
model = dict(
    teacher=dict(
        cfg_path='mmdfad::teachers/resnet34_caltech101.py',
        checkpoint='work_dirs/resnet34_caltech101/epoch_150.pth',
        train_command='python tools/train.py configs/teachers/resnet34_caltech101.py',
    ),
    student=dict(
        cfg_path='mmdfad::teachers/resnet34_caltech101.py',
        cfg_options={'model.backbone.depth': 18},
    ),
)
