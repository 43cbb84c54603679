"""Narrower students of every family that is known, at the smallest model of each."""

import pytest
import torch
from mmengine.config import Config

from mmdfad.apis.shrink import shrink
from mmdfad.models.logits import as_logits
from mmdfad.models.players import build_model, plain_config
from mmdfad.utils import DistillError
from mmdfad.utils.model import model_size

FAMILIES = {
    # config: pixels that its windows and patches need
    'mmpretrain::resnet/resnet18_8xb16_cifar10.py': 32,
    'mmpretrain::resnet/resnet50_8xb32_in1k.py': 64,
    'mmpretrain::resnet/resnetv1d50_8xb32_in1k.py': 64,
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py': 64,
    'mmpretrain::convnext_v2/convnext-v2-atto_32xb32_in1k.py': 64,
    'mmpretrain::deit/deit-tiny_4xb256_in1k.py': 32,
    'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py': 32,
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py': 224,
    'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py': 64,
    'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py': 64,
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py': 64,
    'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py': 64,
    'mmseg::upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py': 64,
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py': 64,
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py': 64,
    'mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py': 64,
    'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py': 64,
}


@pytest.mark.parametrize(('path', 'pixels'), FAMILIES.items(), ids=lambda value: str(value).rpartition('/')[2])
def test_half_the_width_is_smaller_and_of_the_same_classes(path, pixels):
    teacher = plain_config(dict(cfg_path=path), 'teacher')
    options = shrink(teacher, 0.5)
    student = plain_config(dict(cfg_path=path, cfg_options=options), 'student')
    images = torch.zeros(2, 3, pixels, pixels)
    sizes, shapes, heads = [], [], []
    for plain in (teacher, student):
        logits = as_logits(build_model(plain, 'teacher')).eval()
        heads.append(getattr(logits.model, 'auxiliary_head', None))
        with torch.no_grad():
            sizes.append(model_size(logits, images))
            shapes.append(logits(images).shape)
    assert shapes[0] == shapes[1]
    assert sizes[1].params < 0.6 * sizes[0].params
    assert sizes[1].flops < 0.55 * sizes[0].flops
    if heads[0] is not None:  # no test calls these, so that their inputs are compared
        assert heads[1].in_channels == heads[0].in_channels * options['model.auxiliary_head.in_channels'] // (
            teacher.model.auxiliary_head.in_channels
        )
        assert heads[1].channels == heads[0].channels // 2


def model(backbone: dict, **parts) -> Config:
    return Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier', backbone=backbone, **parts)))


@pytest.mark.parametrize(
    ('plain', 'message'),
    [
        (
            model(dict(type='VGG', depth=11)),
            'backbone=VGG narrower. It knows .* own with --student',
        ),
        (model(dict(type='ResNet', depth=18), head=dict(type='ArcFaceClsHead')), 'model.head=ArcFaceClsHead narrower'),
        (model(dict(type='VisionTransformer', arch=dict(num_heads=1, embed_dims=8))), 'leaves all of the 1 attention'),
    ],
)
def test_what_cannot_be_shrunk_is_refused(plain, message):
    with pytest.raises(DistillError, match=message):
        shrink(plain, 0.5)


@pytest.mark.parametrize('ratio', [0, 1, 2])
def test_ratio_out_of_range(ratio):
    with pytest.raises(DistillError, match='between 0 and 1'):
        shrink(model(dict(type='ResNet', depth=18)), ratio)
