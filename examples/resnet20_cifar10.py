# The same with fewer blocks: a student.
_base_ = 'resnet32_cifar10.py'
model = dict(kwargs=dict(depth=20))
