# CIFAR-100, to validate the student with.
_base_ = 'cifar10.py'
val_dataloader = dict(dataset=dict(type='mmpretrain.CIFAR100', data_root='data/cifar100'))
test_dataloader = val_dataloader
