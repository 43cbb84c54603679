# A real model from outside OpenMMLab: ResNet-32 to ResNet-20, in the narrow CIFAR form, as plain torch modules.
_base_ = [
    '../_base_/generators/upsample_32.py',
    '../_base_/schedules/dfad_500e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
network = dict(
    type='mmdfad.TorchClassifier',
    factory='{{ fileDirname }}/../../examples/cifar_resnet.py:CifarResNet',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
)
model = dict(
    teacher=dict(
        **network,
        kwargs=dict(depth=32),
        checkpoint='data/cifar10/resnet32.pth',
        recipe='# resnet32 of https://github.com/akamaster/pytorch_resnet_cifar10',
    ),
    student=dict(**network, kwargs=dict(depth=20)),
)
# Folders of images by class.
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(
        type='CustomDataset',
        data_root='data/cifar10/images',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
val_cfg = dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg
