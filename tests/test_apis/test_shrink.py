"""Narrower and shallower students of each known family, by its smallest model."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from mmdfad.apis.shrink import shrink
from mmdfad.models import AdversarialDistiller
from mmdfad.models.build import build_model, plain_config
from mmdfad.models.logits import as_logits
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


@pytest.mark.slow
@pytest.mark.parametrize(('path', 'pixels'), FAMILIES.items(), ids=lambda value: str(value).rpartition('/')[2])
def test_half_the_width_is_smaller_and_has_the_same_classes(path, pixels):
    teacher = plain_config(dict(cfg_path=path), 'teacher')
    options = shrink(teacher, width=0.5)
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
    if heads[0] is not None:  # nothing above calls these, so their inputs are compared
        assert heads[1].in_channels == heads[0].in_channels * options['model.auxiliary_head.in_channels'] // (
            teacher.model.auxiliary_head.in_channels
        )
        assert heads[1].channels == heads[0].channels // 2


CITYSCAPES, ADE = '4xb2-80k_cityscapes-512x1024.py', '8xb2-160k_ade20k-512x512.py'
# config: pixels, and the settings of a student with half the depth (and a quarter of the width)
SHALLOWER = {
    'mmpretrain::resnet/resnet34_8xb16_cifar10.py': (32, dict(depth=18)),
    'mmpretrain::resnet/resnet152_8xb32_in1k.py': (64, dict(depth=101)),  # the nearest one
    'mmpretrain::convnext_v2/convnext-v2-atto_32xb32_in1k.py': (64, dict(arch=dict(depths=[1, 1, 3, 1]))),
    'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py': (32, dict(arch=dict(num_layers=6))),
    'mmpretrain::swin_transformer/swin-base_16xb64_in1k.py': (224, dict(arch=dict(depths=[2, 2, 8, 2]))),
    f'mmseg::deeplabv3plus/deeplabv3plus_r101-d8_{CITYSCAPES}': (64, dict(depth=50)),
    'mmseg::segformer/segformer_mit-b2_8xb1-160k_cityscapes-1024x1024.py': (64, dict(num_layers=[2, 2, 3, 2])),
    f'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_{ADE}': (64, dict(depths=[2, 2, 4, 2])),
    'mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py': (
        64,
        dict(num_layers=6, out_indices=[1, 2, 4, 5]),
    ),
}


@pytest.mark.parametrize(('path', 'expected'), SHALLOWER.items(), ids=lambda value: str(value).rpartition('/')[2])
def test_half_the_depth_is_smaller_and_starts_with_layers_of_the_teacher(path, expected):
    pixels, settings = expected
    plain = plain_config(dict(cfg_path=path), 'teacher')
    assert shrink(plain, depth=0.5).keys() == {f'model.backbone.{key}' for key in settings}
    narrow, both = shrink(plain, width=0.25), shrink(plain, width=0.25, depth=0.5)
    for key, value in settings.items():
        found = both[f'model.backbone.{key}']
        assert ({k: found[k] for k in value} if key == 'arch' else found) == value
    distiller = AdversarialDistiller(
        teacher=dict(cfg_path=path, cfg_options=narrow),
        student=dict(cfg_path=path, cfg_options=both),
        generator=dict(type='UpsampleGenerator', noise_dim=8, image_size=pixels, width=8),
        allow_random_teacher=True,
        start=dict(type='ChannelSelection'),
    )
    layers, parameters = [], []
    for network in (distiller.student, distiller.teacher):
        layers.append(sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.model.backbone.modules()))
        parameters.append(sum(p.numel() for p in network.parameters()))
    assert layers[0] < 0.9 * layers[1]
    assert parameters[0] < 0.95 * parameters[1]
    for parameter in distiller.teacher.parameters():  # some heads start with zeros
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    distiller.apply_start(lambda count: torch.zeros(count, 3, pixels, pixels))
    own, theirs = (dict(network.model.named_parameters()) for network in (distiller.student, distiller.teacher))
    first = next(iter(own))
    assert torch.equal(own[first], theirs[first])
    optim = OptimWrapper(torch.optim.SGD(distiller.student.parameters(), lr=0.1))
    before = [p.detach().clone() for p in distiller.student.parameters()]
    assert distiller.imitation_step(torch.randn(2, 8), optim)['imitation_loss'] > 0
    assert any(not torch.equal(p, old) for p, old in zip(distiller.student.parameters(), before, strict=True))


def model(backbone: dict, **parts) -> Config:
    return Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier', backbone=backbone, **parts)))


def vit(layers: int, out_indices: int | tuple[int, ...]) -> Config:
    arch = dict(num_layers=layers, num_heads=1, embed_dims=8)
    return model(dict(type='VisionTransformer', arch=arch, out_indices=out_indices))


@pytest.mark.parametrize(
    ('plain', 'ratios', 'message'),
    [
        (
            model(dict(type='VGG', depth=11)),
            dict(width=0.5),
            'make backbone=VGG narrower; it can do so for ResNet, .* own with',
        ),
        (
            model(dict(type='ResNet', depth=18), head=dict(type='ArcFaceClsHead')),
            dict(width=0.5),
            'model.head=ArcFaceClsHead narrower; it can do so for .*LinearClsHead',
        ),
        (
            model(dict(type='VisionTransformer', arch=dict(num_heads=1, embed_dims=8))),
            dict(width=0.5),
            'leaves the backbone all of its 1 attention heads',
        ),
        (
            model(dict(type='MobileNetV2')),
            dict(depth=0.5),
            'backbone=MobileNetV2 shallower; it can do so for ResNet, .* own with',
        ),
        (model(dict(type='ResNet', depth=50)), dict(depth=0.5), 'cannot make a ResNet of depth 50 shallower'),
        (
            model(dict(type='SwinTransformer', arch=dict(depths=[2, 2], embed_dims=8, num_heads=[1, 1]))),
            dict(depth=0.5),
            r'with \[2, 2\] blocks in its stages shallower by that ratio; choose a smaller one or a ratio of widths',
        ),
        (vit(4, -1), dict(depth=0.9), 'of 4 layers with out_indices=-1 shallower'),
        (vit(4, (0, 1, 2, 3)), dict(depth=0.5), 'of 4 layers with out_indices=.* shallower'),
        (vit(12, (8, 10, 11)), dict(depth=0.3), r'of 12 layers with out_indices=.8, 10, 11. shallower'),
    ],
)
def test_what_cannot_be_shrunk_is_refused(plain, ratios, message):
    with pytest.raises(DistillError, match=message):
        shrink(plain, **ratios)


@pytest.mark.parametrize('ratios', [(0, 1), (1, 1), (2, 1), (0.5, 0), (0.5, 1.5)])
def test_ratios_out_of_range(ratios):
    with pytest.raises(DistillError, match='takes ratios above 0 and at most 1, at least one of them below 1'):
        shrink(model(dict(type='ResNet', depth=34)), *ratios)


def test_settings_that_a_config_leaves_to_the_backbone():
    swin = Config(dict(default_scope='mmseg', model=dict(backbone=dict(type='SwinTransformer'))))
    assert shrink(swin, 0.34, 0.5) == {
        'model.backbone.depths': [2, 2, 4, 2],
        'model.backbone.num_heads': [1, 2, 4, 8],
        'model.backbone.embed_dims': 32,
    }
    assert shrink(swin, 0.5)['model.backbone.num_heads'] == [2, 4, 8, 16]  # 3 is rounded up


@pytest.mark.parametrize(('base', 'narrowed'), [(64, 16), (100, 32), (32, 10)])
def test_large_widths_are_multiples_of_eight(base, narrowed):
    options = shrink(model(dict(type='ResNet', depth=18, base_channels=base)), 0.3)
    assert options['model.backbone.base_channels'] == narrowed
