# The same with fewer blocks, a ResNet-20: a student.
_base_ = 'resnet32_cifar10.py'
model = dict(kwargs=dict(depth=20))
