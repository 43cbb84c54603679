# The same with half the channels: a student.
_base_ = 'resnet32_cifar10.py'
model = dict(kwargs=dict(width=8))
