# CIFAR-100. Only for validation and test.
_base_ = 'cifar10.py'
val_dataloader = dict(dataset=dict(type='mmpretrain.CIFAR100', data_root='data/cifar100'))
test_dataloader = val_dataloader
