# DFAD, table 1: LeNet-5 to half its width on MNIST.
_base_ = [
    '../_base_/datasets/mnist.py',
    '../_base_/generators/upsample_32.py',
    '../_base_/schedules/dfad_2k.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
model = dict(
    teacher=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        checkpoint='work_dirs/lenet5_mnist/epoch_5.pth',
        train_command='python tools/train.py mmpretrain::lenet/lenet5_mnist.py',
    ),
    student=dict(
        cfg_path='mmpretrain::lenet/lenet5_mnist.py',
        cfg_options={'model.backbone.type': 'mmdfad.LeNet5Half'},
    ),
    generator=dict(noise_dim=100, channels=1),
)
train_dataloader = dict(batch_size=512)
auto_scale_lr = dict(base_batch_size=512)
