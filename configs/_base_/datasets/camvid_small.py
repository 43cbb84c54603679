# CamVid at 240x180, without resizing. Validation uses the validation images, and test uses the test images.
_base_ = 'camvid.py'
pipeline = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations'), dict(type='mmseg.PackSegInputs')]
small = dict(data_root='data/camvid_small', pipeline=pipeline)
val_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(**small, ann_file='val.txt'))
test_dataloader = dict(batch_size=8, num_workers=0, dataset=small)
