"""The least-squares start: against a plain rendering, on each family, and at its limits."""

import copy
import inspect
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, assert_same_state, both_tasks, build_runner
from distillers import build_distiller
from mmengine.registry import DefaultScope
from ranks import train
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models import ChannelSelection, LeastSquaresStart
from mmdfad.models.build import build_network
from mmdfad.models.starts import layers, passes
from mmdfad.utils import DistillError

CIFAR_RESNET = f'{ROOT}/examples/cifar_resnet.py:CifarResNet'


def torch_network(role, factory=CIFAR_RESNET, **kwargs):
    return build_network(dict(type='mmdfad.TorchClassifier', factory=factory, kwargs=kwargs), role)


def images_of(count, size=16, seed=0):
    """Smooth images with some noise [n, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size, mode='bilinear') + 0.3 * torch.randn(count, 3, size, size, generator=generator)


@torch.no_grad()
def diversify(model, images):
    """Give a model weights and statistics as of a trained one: its features vary, and so do its labels."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.rpartition('.')[2].startswith(('gamma', 'beta')):
            nn.init.uniform_(parameter, -0.3, 0.3) if 'bias' in name or 'beta' in name else parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    model(images) if not hasattr(model, 'encode_decode') else model.encode_decode(images, [shape_of(images)])
    for norm in norms:
        norm.momentum, norm.training = 0.1, False


def shape_of(images):
    size = images.shape[2:]
    return dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)


def prepared(teacher, student, size=16):
    diversify(teacher.model, images_of(16, size))
    student.take_pixels_of(teacher)
    teacher.eval().requires_grad_(False)
    return teacher, student.eval()


def sampler(images):
    """Gives these images one after the other, and counts them."""
    taken = []

    def sample(count):
        taken.append(count)
        return images[sum(taken) - count : sum(taken)]

    sample.taken = taken
    return sample


@torch.no_grad()
def start(teacher, student, images, **settings):
    settings = dict(images=len(images), batch_size=16) | settings
    start = LeastSquaresStart(**settings)
    start.check(teacher, student)
    start.apply(teacher, student, sampler(images))
    return start


@torch.no_grad()
def error_of(teacher, student, images):
    """Squared error of the logits, relative to how far the teacher's are from their mean."""
    found, wanted = student.predict(images), teacher.predict(images)
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


# Law 4


def ridge_regression(inputs, targets, ridge=1e-2):
    """Weights [D, M] and bias [M], by stacking the penalty under the samples."""
    penalty = (ridge * inputs.square().sum(0).mean()).sqrt() * torch.eye(inputs.shape[1]).to(inputs)
    rows = torch.cat([torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1), F.pad(penalty, (0, 1))])
    solution = torch.linalg.lstsq(rows, F.pad(targets, (0, 0, 0, len(penalty)))).solution
    return solution[:-1], solution[-1]


def fit_conv(conv, norm, inputs, targets):
    """A convolution and its batch norm, by unfolding all inputs."""
    columns = F.unfold(inputs, conv.kernel_size, padding=conv.padding, stride=conv.stride).transpose(1, 2).flatten(0, 1)
    weight, bias = ridge_regression(columns, targets.transpose(0, 1).flatten(1).T)
    conv.weight.copy_(weight.T.reshape(conv.weight.shape))
    outputs = conv(inputs)
    var, mean = torch.var_mean(outputs, (0, 2, 3), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    norm.weight.copy_((var + norm.eps).sqrt())
    norm.bias.copy_(mean + bias)
    return norm(outputs)


def skip_of(block, x):
    padding = (0, 0, 0, 0, block.padding, block.padding)
    return F.pad(x[:, :, :: block.stride, :: block.stride], padding)


def total_of(block, x):
    return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + skip_of(block, x)


@pytest.mark.parametrize('residual', ['branch', 'sum'])
def test_a_shallower_student_is_that_of_a_plain_rendering(residual):
    """Blocks 0 to 1, 2, and 3 to 4 of each stage."""
    teacher, student = prepared(torch_network('teacher', depth=32), torch_network('student', depth=20))
    teacher, student = teacher.double(), student.double()
    images = images_of(24, 8).double()
    start(teacher, student, images, positions=10**6, residual=residual)

    large, small = teacher.model.model, copy.deepcopy(student.model.model)
    for parameter in small.parameters():
        nn.init.normal_(parameter)  # whatever it was
    with torch.no_grad():
        theirs = large.bn1(large.conv1(images))
        ours = F.relu(fit_conv(small.conv1, small.bn1, images, theirs))
        theirs = F.relu(theirs)
        for stage in ('layer1', 'layer2', 'layer3'):
            blocks = getattr(large, stage)
            for block, (begin, end) in zip(getattr(small, stage), pairwise((0, 2, 3, 5)), strict=True):
                hidden = blocks[begin].bn1(blocks[begin].conv1(theirs))
                branch = blocks[begin].bn2(blocks[begin].conv2(F.relu(hidden)))
                for part in blocks[begin:end]:
                    total = total_of(part, theirs)
                    theirs = F.relu(total)
                inner = F.relu(fit_conv(block.conv1, block.bn1, ours, hidden))
                skip = skip_of(block, ours)
                wanted = branch if residual == 'branch' and end - begin == 1 else total - skip
                ours = F.relu(fit_conv(block.conv2, block.bn2, inner, wanted) + skip)
        weight, bias = ridge_regression(ours.mean((2, 3)), large.linear(theirs.mean((2, 3))))
    small.linear.weight.data, small.linear.bias.data = weight.T, bias
    found = student.model.model.state_dict()
    for key, value in small.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=lambda m, k=key: f'{k}: {m}')


def test_a_narrower_student_is_that_of_a_plain_rendering(tiny_cfg):
    """A ResNet of half the width, with projections beside its first blocks."""
    distiller, _ = build_distiller(tiny_cfg)
    teacher, student = distiller.teacher.double().eval(), distiller.student.double().eval()
    images = images_of(24, 8).double()
    start(teacher, student, images, positions=10**6)

    backbones = teacher.model.backbone, copy.deepcopy(student.model.backbone)
    large, small = backbones
    kept = lambda x: x[:, ::2]  # noqa: E731
    with torch.no_grad():
        theirs = large.bn1(large.conv1(images))
        ours = F.relu(fit_conv(small.conv1, small.bn1, student.pixels(images), kept(theirs)))
        theirs = F.relu(theirs)
        for stage in ('layer1', 'layer2', 'layer3', 'layer4'):
            for block, other in zip(getattr(small, stage), getattr(large, stage), strict=True):
                hidden = other.bn1(other.conv1(theirs))
                inner = F.relu(fit_conv(block.conv1, block.bn1, ours, kept(hidden)))
                branch = other.bn2(other.conv2(F.relu(hidden)))
                if block.downsample is not None:
                    theirs = other.downsample(theirs)
                    ours = fit_conv(*block.downsample, ours, kept(theirs))
                theirs = F.relu(branch + theirs)
                ours = F.relu(fit_conv(block.conv2, block.bn2, inner, kept(branch)) + ours)
        weight, bias = ridge_regression(ours.mean((2, 3)), teacher.model.head.fc(theirs.mean((2, 3))))
    found = student.model.backbone.state_dict()
    for key, value in small.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=lambda m, k=key: f'{k}: {m}')
    torch.testing.assert_close(student.model.head.fc.weight, weight.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(student.model.head.fc.bias, bias, rtol=0, atol=1e-6)


@both_tasks
@pytest.mark.parametrize('residual', ['branch', 'sum'])
def test_a_student_of_the_teachers_shape_becomes_the_teacher(tiny_cfg, residual):
    cfg = tiny_cfg.copy()
    cfg.model.student = copy.deepcopy(cfg.model.teacher)
    cfg.model.student.pop('checkpoint')
    cfg.model.student.pop('pretrained', None)
    distiller, _ = build_distiller(cfg)
    teacher, student = distiller.teacher, distiller.student.eval()
    images = images_of(48, 32)
    assert error_of(teacher, student, images) > 0.5
    errors = start(teacher, student, images, ridge=0, residual=residual).errors
    assert max(errors.values()) < 1e-6
    assert error_of(teacher, student, images) < 1e-6


# Families. Each has a teacher that is as small as its code allows.


def classifier(backbone, features, neck=True, **head):
    head = dict(type='LinearClsHead', num_classes=5, in_channels=features) | head
    cfg = dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head)
    return cfg | (dict(neck=dict(type='GlobalAveragePooling')) if neck else {})


def segmentor(backbone, **head):
    head = dict(num_classes=5, norm_cfg=dict(type='BN'), channels=8, align_corners=False) | head
    head['loss_decode'] = dict(type='CrossEntropyLoss')
    model = dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head)
    return dict(model, train_cfg=dict(), test_cfg=dict(mode='whole'))


def bottlenecks(width, depth):
    backbone = dict(type='ResNetV1d', depth=depth, base_channels=width, stem_channels=width)
    return classifier(backbone, 32 * width if depth > 34 else 8 * width)


def mobilenet(width, depth):
    return classifier(dict(type='MobileNetV2', widen_factor=width), 1280)


def convnext(width, depth):
    arch = dict(depths=[depth] * 4, channels=[width, width, 2 * width, 2 * width])
    backbone = dict(type='ConvNeXt', arch=arch, use_grn=True, layer_scale_init_value=0.0, gap_before_final_norm=True)
    return classifier(backbone, 2 * width, neck=False)


def convnext_with_layer_scale(width, depth):
    arch = dict(depths=[depth] * 4, channels=[width, width, 2 * width, 2 * width])
    return classifier(dict(type='ConvNeXt', arch=arch, gap_before_final_norm=True), 2 * width, neck=False)


def vit(width, depth, **changes):
    arch = dict(embed_dims=8 * width, num_layers=depth, num_heads=width, feedforward_channels=16 * width)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=16, patch_size=4) | changes
    head = dict(type='VisionTransformerClsHead')
    return classifier(backbone, 8 * width, neck=False, **head)


def deit(width, depth):
    cfg = vit(width, depth, type='DistilledVisionTransformer')
    return cfg | dict(head=dict(cfg['head'], type='DeiTClsHead'))


def swin(width, depth):
    arch = dict(embed_dims=8 * width, depths=[depth] * 4, num_heads=[width, width, 2 * width, 2 * width])
    sizes = dict(img_size=32, patch_size=2, window_size=4, pad_small_map=True)
    return classifier(dict(type='SwinTransformer', arch=arch, **sizes), 64 * width)


def deeplab(width, depth):
    backbone = dict(
        type='ResNetV1c', depth=depth, base_channels=width, stem_channels=width, strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4), contract_dilation=True, norm_cfg=dict(type='BN'),
    )  # fmt: skip
    return segmentor(backbone, type='ASPPHead', in_channels=8 * width, in_index=3, channels=width, dilations=(1, 2))


def segformer(width, depth):
    backbone = dict(
        type='MixVisionTransformer', embed_dims=width, num_heads=[1, 2, 2, 2], num_layers=[depth] * 4,
        sr_ratios=[2, 2, 1, 1],
    )  # fmt: skip
    widths = [width, 2 * width, 2 * width, 2 * width]
    return segmentor(backbone, type='SegformerHead', in_channels=widths, in_index=[0, 1, 2, 3])


def seg_vit(width, depth):
    backbone = dict(
        type='VisionTransformer', img_size=16, patch_size=4, embed_dims=8 * width, num_layers=depth, num_heads=width,
        mlp_ratio=2, out_indices=(depth // 2 - 1, depth - 1), final_norm=True,
    )  # fmt: skip
    return segmentor(backbone, type='FCNHead', in_channels=8 * width, in_index=1, num_convs=1)


FAMILIES = {
    'resnet-basic': (bottlenecks, (8, 34), [(4, 34), (8, 18), (4, 18)]),
    'resnet-bottleneck': (bottlenecks, (8, 50), [(4, 50)]),
    'mobilenet': (mobilenet, (0.5, 0), [(0.25, 0)]),
    'convnext': (convnext, (16, 2), [(8, 2), (16, 1), (8, 1)]),
    'convnext-scaled': (convnext_with_layer_scale, (16, 2), [(8, 1)]),
    'vit': (vit, (4, 4), [(2, 4), (4, 2), (2, 2)]),
    'deit': (deit, (4, 4), [(2, 2)]),
    'swin': (swin, (2, 4), [(1, 4), (2, 2), (1, 2)]),
    'deeplab': (deeplab, (8, 34), [(4, 34), (8, 18)]),
    'segformer': (segformer, (16, 2), [(8, 2), (16, 1), (8, 1)]),
    'segvit': (seg_vit, (4, 4), [(2, 4), (4, 2), (2, 2)]),
}
PAIRS = [(make, large, small) for make, large, smaller in FAMILIES.values() for small in smaller]
IDS = [f'{name}-{small}' for name, (_, _, smaller) in FAMILIES.items() for small in smaller]


@pytest.mark.parametrize(('make', 'large', 'small'), PAIRS, ids=IDS)
def test_each_family_starts_nearer_to_its_teacher_than_with_selected_channels(make, large, small):
    size = 16 if make in (vit, deit, seg_vit) else 32
    torch.manual_seed(0)
    teacher, student = prepared(build_network(make(*large), 'teacher'), build_network(make(*small), 'student'), size)
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    images, held_out = images_of(64, size), images_of(32, size, seed=1)
    with torch.no_grad():
        ChannelSelection().apply(teacher, student, None)
    selected = error_of(teacher, student, held_out)
    errors = start(teacher, student, images).errors
    assert error_of(teacher, student, held_out) < 0.7 * selected
    assert all(value.isfinite().all() for value in student.model.state_dict().values())
    # Each layer with weights was solved for, but for layer scales.
    solved = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in student.model.modules())
    assert len([name for name in errors if not name.endswith(('_proj', 'norm'))]) >= 0.9 * min(solved, len(errors))
    # Law 2, and nothing is left behind.
    assert_same_state(teacher.model.state_dict(), before)
    for network in (teacher, student):
        for module in network.modules():
            assert 'forward' not in vars(module)
            if module not in network._recorder.installed:
                assert not module._forward_hooks
                assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in [*teacher.parameters(), *student.parameters()])
