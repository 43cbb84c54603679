# As tiny.py, for segmentation: real mmseg models of small width, with auxiliary heads, SyncBN, dropout and heads that
# differ in align_corners.
_base_ = './tiny.py'
default_scope = 'mmseg'
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], bgr_to_rgb=True, size=(32, 32)
)


def segmentor(width, align_corners, dropout_ratio):
    return dict(
        _delete_=True,
        type='EncoderDecoder',
        data_preprocessor=data_preprocessor,
        pretrained='open-mmlab://never_fetched',
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            base_channels=width,
            stem_channels=width,
            dilations=(1, 1, 2, 4),
            strides=(1, 2, 1, 1),
            norm_cfg=norm_cfg,
            contract_dilation=True,
        ),
        decode_head=dict(
            type='ASPPHead',
            in_channels=8 * width,
            in_index=3,
            channels=width,
            dilations=(1, 2),
            dropout_ratio=dropout_ratio,
            num_classes=5,
            norm_cfg=norm_cfg,
            align_corners=align_corners,
            loss_decode=dict(type='CrossEntropyLoss'),
        ),
        auxiliary_head=dict(
            type='FCNHead',
            in_channels=4 * width,
            in_index=2,
            channels=width,
            num_convs=1,
            concat_input=False,
            num_classes=5,
            norm_cfg=norm_cfg,
            align_corners=align_corners,
            loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


model = dict(
    teacher=dict(**segmentor(8, align_corners=True, dropout_ratio=0.1), checkpoint=None),
    student=segmentor(4, align_corners=False, dropout_ratio=0.0),
    generator=dict(image_size=(32, 24)),
    generation=[dict(type='mmdfad.LogL1Discrepancy')],
)
train_dataloader = dict(batch_size=4)
