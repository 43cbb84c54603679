# A plain torch module, the ResNet-32 of cifar_resnet.py, for the tools: a teacher.
_base_ = '../configs/_base_/datasets/cifar10_images.py'
default_scope = 'mmpretrain'
model = dict(
    type='mmdfad.TorchClassifier',
    factory='{{ fileDirname }}/cifar_resnet.py:CifarResNet',
    kwargs=dict(depth=32),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
)
