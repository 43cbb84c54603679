# The same as deeplabv3_r50_camvid.py, for NYUv2 with 13 classes.
_base_ = 'deeplabv3_r50_camvid.py'
model = dict(decode_head=dict(num_classes=13), auxiliary_head=dict(num_classes=13))
dataset = dict(type='mmdfad.NYUv2Dataset', data_root='data/nyuv2')
train_dataloader = dict(dataset=dict(**dataset, ann_file='train13.txt'))
val_dataloader = dict(dataset=dict(**dataset, ann_file='test13.txt'))
test_dataloader = val_dataloader
