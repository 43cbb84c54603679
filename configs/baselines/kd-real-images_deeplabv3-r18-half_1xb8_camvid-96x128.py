# Baseline KD-ORI: the same student, loop and number of updates, on REAL training images instead of generated ones.
_base_ = '../dfad/dfad_deeplabv3-r18-half_1xb8_camvid-96x128.py'
model = dict(generator=dict(_delete_=True, type='mmdfad.RandomImageGenerator', image_size=(96, 128)))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmdfad.CamVidDataset',
        data_root='data/camvid_small',
        ann_file='train.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResize', scale=(240, 180), ratio_range=(0.75, 1.5), keep_ratio=True),
            dict(type='mmseg.RandomCrop', crop_size=(96, 128)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='mmseg.PackSegInputs'),
        ],
    ),
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
)
