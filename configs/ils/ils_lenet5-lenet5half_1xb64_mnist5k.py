# LeNet-5 to half its width on MNIST. LeNet-5 has no batch norm, so nothing tells how to improve the images.
_base_ = [
    '../_base_/datasets/mnist5k.py',
    '../_base_/methods/ils.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
rounds = 200
model = dict(
    teacher=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        checkpoint='work_dirs/lenet5_mnist5k/epoch_20.pth',
        train_command='python tools/train.py configs/teachers/lenet5_mnist5k.py',
    ),
    student=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        cfg_options={'model.backbone.type': 'mmdfad.LeNet5Half'},
    ),
    generator=dict(
        generator=dict(
            _delete_=True, type='mmdfad.ImageBank', noise_dim=256, image_size=32, channels=1, count=2048, fixed=True
        ),
    ),
    generation=[],
    start=dict(begin=0),
)
param_scheduler = dict(
    _delete_=True, student=[dict(type='CosineAnnealingLR', by_epoch=False, end=rounds + 1)], generator=[]
)
train_cfg = dict(max_iters=rounds, phases=[dict(name='imitation', steps=10)], val_begin=1)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=20), synthetic_images=dict(interval=20), health=dict(interval=20)
)
