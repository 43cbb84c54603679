# CamVid as it is stored, for images of 240x180, to validate the student with.
_base_ = 'camvid.py'
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
val_dataloader = dict(batch_size=8, dataset=dict(data_root='data/camvid_small', pipeline=pipeline))
test_dataloader = val_dataloader
