# A small Swin transformer, trained on the 4,000 training digits of Mnist5k: a teacher without batch norm.
_base_ = './vit_mnist5k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch=dict(embed_dims=32, depths=[4, 4], num_heads=[2, 4]),
        img_size=32,
        patch_size=4,
        window_size=4,
        in_channels=1,
        out_indices=(1,),
    ),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead'),
)
