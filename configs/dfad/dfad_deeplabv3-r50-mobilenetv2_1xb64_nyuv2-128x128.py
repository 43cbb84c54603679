# DFAD, table 3: DeepLabV3-R50 to DeepLabV3-MobileNetV2 on NYUv2 with 13 classes.
_base_ = 'dfad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py'
model = dict(
    teacher=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r50_nyuv2.py',
        checkpoint='work_dirs/deeplabv3_r50_nyuv2/epoch_200.pth',
        train_command='python tools/dataset_converters/nyuv2.py nyu_depth_v2_labeled.mat nyuv2-meta-data\n'
        'python tools/train.py configs/teachers/deeplabv3_r50_nyuv2.py',
    ),
    student=dict(
        cfg_options={'model.decode_head.num_classes': 13, 'model.auxiliary_head.num_classes': 13},
    ),
)
val_dataloader = dict(dataset=dict(type='mmdfad.NYUv2Dataset', data_root='data/nyuv2', ann_file='test13.txt'))
test_dataloader = val_dataloader

optim_wrapper = dict(student=dict(optimizer=dict(weight_decay=5e-5)))
step = [dict(type='MultiStepLR', by_epoch=False, milestones=[5000, 10000], gamma=0.3)]
param_scheduler = dict(student=step, generator=step)
