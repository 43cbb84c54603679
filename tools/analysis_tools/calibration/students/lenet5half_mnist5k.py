_base_ = '../../../../configs/teachers/lenet5_mnist5k.py'
model = dict(backbone=dict(type='mmdfad.LeNet5Half'))
