# DFAD, table 3: DeepLabV3-R50 to DeepLabV3-MobileNetV2 on NYUv2 with 13 classes.
_base_ = [
    '../_base_/datasets/nyuv2.py',
    '../_base_/generators/dcgan_128.py',
    '../_base_/schedules/dfad_300e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmseg'
model = dict(
    teacher=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r50_nyuv2.py',
        checkpoint='work_dirs/deeplabv3_r50_nyuv2/epoch_200.pth',
        recipe='python tools/dataset_converters/nyuv2.py nyu_depth_v2_labeled.mat nyuv2-meta-data\n'
        'python tools/train.py configs/teachers/deeplabv3_r50_nyuv2.py',
    ),
    student=dict(
        cfg_path='mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py',
        cfg_options={
            'model.data_preprocessor': dict(mean=[127.5] * 3, std=[127.5] * 3, size=(128, 128)),
            'model.decode_head.num_classes': 13,
            'model.auxiliary_head.num_classes': 13,
        },
    ),
    generation_loss=dict(type='mmdfad.LogL1Discrepancy'),
)
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.1, weight_decay=5e-5)))
step = [dict(type='MultiStepLR', by_epoch=False, milestones=[5000, 10000], gamma=0.3)]
param_scheduler = dict(student=step, generator=step)
