# A student of another architecture than its teacher: DeepLabV3 with a MobileNetV2, as in
# mmseg's mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py, with heads of 64 channels.
_base_ = '../configs/teachers/deeplabv3_r18w32_camvid_small.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg.MobileNetV2',
        widen_factor=1.0,
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(in_channels=320, channels=64),
    auxiliary_head=dict(in_channels=96),
)
