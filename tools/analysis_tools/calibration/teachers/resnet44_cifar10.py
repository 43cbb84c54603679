_base_ = '../../../../examples/resnet32_cifar10.py'
model = dict(kwargs=dict(depth=44))
