# The ResNet-32 of cifar_resnet.py, which is no model of OpenMMLab, as the tools need it to distil and test it.
default_scope = 'mmpretrain'
model = dict(
    type='mmdfad.TorchClassifier',
    factory='{{ fileDirname }}/cifar_resnet.py:CifarResNet',
    kwargs=dict(depth=32),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
)
# Folders of images by class.
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    dataset=dict(
        type='CustomDataset',
        data_root='data/cifar10/images',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=32), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
val_cfg = dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg
