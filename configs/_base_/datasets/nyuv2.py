# NYUv2 with 13 classes, resized to 256 pixels of height as in the paper. Only for validation and test.
_base_ = 'camvid.py'
val_dataloader = dict(dataset=dict(type='mmdfad.NYUv2Dataset', data_root='data/nyuv2', ann_file='test13.txt'))
test_dataloader = val_dataloader
