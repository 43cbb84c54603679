"""The least-squares start: against a plain rendering, on each family, and at its limits."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, assert_same_state, both_tasks, run
from distillers import build_distiller
from ranks import train
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models import ChannelSelection, LeastSquaresStart
from mmdfad.models.build import build_network
from mmdfad.models.starts import layers, normal_equations, passes
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
    settings = dict(images=len(images), batch_size=24) | settings
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
def test_a_shallower_student_is_that_of_a_plain_rendering(residual, monkeypatch):
    """Blocks 0 to 1, 2, and 3 to 4 of each stage."""
    teacher, student = prepared(torch_network('teacher', depth=32), torch_network('student', depth=20))
    teacher, student = teacher.double(), student.double()
    images = images_of(24, 8).double()
    monkeypatch.setattr(normal_equations, 'MANY', 0)  # a fixed penalty
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


@pytest.mark.parametrize('residual', ['branch', 'sum'])
def test_a_narrower_student_is_that_of_a_plain_rendering(tiny_cfg, residual, monkeypatch):
    """A ResNet of half the width, with projections beside its first blocks."""
    distiller, _ = build_distiller(tiny_cfg)
    teacher, student = distiller.teacher.double().eval(), distiller.student.double().eval()
    images = images_of(24, 8).double()
    monkeypatch.setattr(normal_equations, 'MANY', 0)  # a fixed penalty
    start(teacher, student, images, positions=10**6, residual=residual)

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
                total = branch + theirs
                wanted = kept(branch) if residual == 'branch' else kept(total) - ours
                theirs = F.relu(total)
                ours = F.relu(fit_conv(block.conv2, block.bn2, inner, wanted) + ours)
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
    arch = dict(embed_dims=8 * width, depths=[depth, 2, 2, 2], num_heads=[width, width, 2 * width, 2 * width])
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
    'resnet-basic': (bottlenecks, (8, 34), [(4, 34), (4, 18)]),
    'resnet-bottleneck': (bottlenecks, (8, 50), [(4, 50)]),
    'mobilenet': (mobilenet, (0.5, 0), [(0.25, 0)]),
    'convnext': (convnext, (16, 2), [(8, 2), (8, 1)]),
    'convnext-scaled': (convnext_with_layer_scale, (16, 2), [(8, 1)]),
    'vit': (vit, (4, 4), [(2, 4), (4, 2)]),
    'deit': (deit, (4, 4), [(2, 2)]),
    'swin': (swin, (2, 4), [(1, 2)]),
    'deeplab': (deeplab, (8, 34), [(4, 34)]),
    'segformer': (segformer, (16, 2), [(8, 2), (8, 1)]),
    'segvit': (seg_vit, (4, 4), [(2, 2)]),
}
PAIRS = [(make, large, small) for make, large, smaller in FAMILIES.values() for small in smaller]
IDS = [f'{name}-{small}' for name, (_, _, smaller) in FAMILIES.items() for small in smaller]


@pytest.mark.parametrize(('make', 'large', 'small'), PAIRS, ids=IDS)
def test_each_family_starts_nearer_to_its_teacher_than_with_selected_channels(make, large, small):
    size = 16 if make in (vit, deit, seg_vit) else 32
    torch.manual_seed(0)
    teacher, student = prepared(build_network(make(*large), 'teacher'), build_network(make(*small), 'student'), size)
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    images, held_out = images_of(48, size), images_of(32, size, seed=1)
    with torch.no_grad():
        ChannelSelection().apply(teacher, student, None)
    selected = error_of(teacher, student, held_out)
    errors = start(teacher, student, images).errors
    assert error_of(teacher, student, held_out) < 0.9 * selected
    assert all(value.isfinite().all() for value in student.model.state_dict().values())
    names = {name for name, module in student.model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert {name for name in names if not name.endswith('attn')} <= errors.keys()
    # Law 2, and nothing is left behind.
    assert_same_state(teacher.model.state_dict(), before)
    for module in [*teacher.modules(), *student.modules()]:
        assert 'forward' not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in [*teacher.parameters(), *student.parameters()])


# What the solutions must keep to


def test_batch_norms_give_the_same_in_both_modes(tiny_cfg):
    """On the images of the start."""
    distiller, _ = build_distiller(tiny_cfg)
    teacher, student = distiller.teacher, distiller.student.eval()
    images = images_of(48)
    start(teacher, student, images, positions=10**6)
    with torch.no_grad():
        expected = student.predict(images)
        for module in student.modules():
            module.training = isinstance(module, _BatchNorm)
        assert torch.allclose(student.predict(images), expected, atol=1e-3 * float(expected.abs().max()))


class PreActivation(nn.Module):
    """Norms before convolutions, a weight of another kind, a module that is called twice, and one that is not."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, padding=1, padding_mode='reflect')
        self.norm = nn.BatchNorm2d(width)
        self.grouped = nn.Conv2d(width, width, 3, padding='same', groups=4)
        self.standard = Standardised(width, width, 3)
        self.twice = nn.Conv2d(width, width, 1)
        self.groups = nn.GroupNorm(2, width)
        self.line = nn.Conv1d(width, width, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(width, width, 2)
        self.unused = nn.Linear(width, width)
        self.act = nn.PReLU(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = self.standard(self.grouped(self.norm(self.act(self.stem(x)))))
        x = self.up(self.groups(self.twice(self.twice(x).relu())))
        return self.fc(self.line(x.flatten(2)).mean(2))


class AddsInPlace(nn.Module):
    """A batch norm behind a sum that replaces the output of a convolution."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, 2, padding=1), nn.BatchNorm2d(width)
        self.conv, self.last = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = self.norm(self.stem(x))
        total = self.conv(x.relu())
        total += x
        return self.fc(self.last(total).relu().mean((2, 3)))


class Halves(nn.Module):
    """Logits that are the mean of two layers' outputs, as those of a distilled vision transformer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 5, 2), nn.BatchNorm2d(32), nn.ReLU())
        self.head, self.head_dist = nn.Linear(32, 10), nn.Linear(32, 10)

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return (self.head(x) + self.head_dist(x)) / 2


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Small(nn.Module):
    """Another architecture."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 5, 2), nn.BatchNorm2d(32), nn.ReLU())
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


def own_pair(width=4, model='PreActivation'):
    factory = f'{__file__}:{model}'
    return prepared(*(torch_network(r, factory, width=w) for r, w in (('teacher', 8), ('student', width))))


def test_layers_of_every_kind():
    """A convolution that changes its weights and a transposed one keep what was selected."""
    teacher, student = own_pair()
    with torch.no_grad():
        ChannelSelection().apply(teacher, student, None)
    before = {key: value.clone() for key, value in student.model.model.state_dict().items()}
    selected = error_of(teacher, student, images_of(32, seed=1))
    errors = start(teacher, student, images_of(48), positions=2000).errors
    solved = ['stem', 'act', 'norm', 'grouped', 'twice', 'groups', 'line', 'fc']
    assert [*errors] == [f'model.{name}' for name in solved]
    after = student.model.model.state_dict()
    kept = {key.partition('.')[0] for key, value in before.items() if torch.equal(value, after[key])}
    assert {'standard', 'up', 'unused'} <= kept
    assert kept & {*solved} == {'norm'}  # a counter in it stays
    assert error_of(teacher, student, images_of(32, seed=1)) < 0.9 * selected


def test_a_norm_behind_a_sum_in_place_is_solved_for_the_sum():
    """And not for the output of the convolution, which is the same tensor. A student as wide starts nearly exactly."""
    teacher, student = own_pair(8, 'AddsInPlace')
    images = images_of(48)
    errors = start(teacher, student, images, positions=5000).errors
    assert [*errors] == [f'model.{name}' for name in ('stem', 'conv', 'last', 'fc')]
    assert error_of(teacher, student, images) < 0.05


def test_a_layer_with_too_many_unknowns_keeps_the_span_of_its_weights(monkeypatch):
    monkeypatch.setattr(layers, 'MOST_UNKNOWNS', 8)
    teacher, student = own_pair()
    with torch.no_grad():
        ChannelSelection().apply(teacher, student, None)
    before = student.model.model.stem.weight.flatten(1).clone()
    assert 'model.stem' in start(teacher, student, images_of(48)).errors
    after = student.model.model.stem.weight.flatten(1)
    assert not torch.allclose(after, before)
    mixed = torch.linalg.lstsq(before.T, after.T)
    assert torch.allclose(before.T @ mixed.solution, after.T, atol=1e-4)


def test_passes_of_the_teacher_are_shared_as_memory_allows(monkeypatch):
    states = []
    for kept in (2**28, 1):
        monkeypatch.setattr(passes, '_KEPT', kept)
        teacher, student = own_pair()
        calls = []
        teacher.model.model.stem.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        start(teacher, student, images_of(48))
        states.append((len(calls), {key: value.clone() for key, value in student.model.state_dict().items()}))
    (few, one), (many, other) = states
    assert (few, many) == (1 + 2, 1 + 8 * 2)  # one to see the shapes; two batches, once or for each of eight layers
    assert_same_state(one, other)


def test_a_student_with_its_own_image_size(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg, model__student__image_size=12)
    teacher, student = distiller.teacher, distiller.student.eval()
    images = images_of(48)
    with torch.no_grad():
        ChannelSelection().apply(teacher, student, None)
    selected = error_of(teacher, student, images)
    errors = start(teacher, student, images).errors
    assert len(errors) == 21  # each layer: feature maps are resized
    assert error_of(teacher, student, images) < selected


def test_images_are_made_once_batch_by_batch():
    teacher, student = own_pair()
    sample = sampler(images_of(20))
    with torch.no_grad():
        LeastSquaresStart(images=20, batch_size=8).apply(teacher, student, sample)
        assert sample.taken == [8, 8, 4]
        sample.taken.clear()
        LeastSquaresStart(images=10, batch_size=32).apply(teacher, student, sample)
        assert sample.taken == [5, 5]  # two batches validate each other


# Other students


def test_another_architecture_gets_a_classifier():
    teacher, student = prepared(torch_network('teacher', depth=8), torch_network('student', f'{__file__}:Small'))
    before = {key: value.clone() for key, value in student.model.model.state_dict().items()}
    images = images_of(96)
    assert error_of(teacher, student, images) > 1
    assert [*start(teacher, student, images).errors] == ['model.fc']
    assert error_of(teacher, student, images) < 0.9
    after = student.model.model.state_dict()
    assert torch.equal(after['body.0.weight'], before['body.0.weight'])
    with torch.no_grad():
        features = student.model.model.body[0](images)
    assert torch.allclose(after['body.1.running_mean'], features.mean((0, 2, 3)), atol=1e-4)
    norm = student.model.model.body[1]
    assert norm.momentum == 0.1
    assert not norm.training


def test_a_layer_that_gives_a_part_of_the_logits_is_not_solved():
    teacher, student = prepared(torch_network('teacher', depth=8), torch_network('student', f'{__file__}:Halves'))
    before = {key: value.clone() for key, value in student.model.state_dict().items() if 'head' in key}
    assert start(teacher, student, images_of(96)).errors == {}
    after = student.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_segmentor_of_another_architecture():
    teacher, student = prepared(build_network(deeplab(8, 18), 'teacher'), build_network(segformer(8, 1), 'student'), 32)
    images = images_of(48, 32)
    before = error_of(teacher, student, images)
    assert [*start(teacher, student, images).errors] == ['decode_head.conv_seg']
    assert error_of(teacher, student, images) < 0.5 * before


# Refused


def test_a_student_starts_from_one_thing_only(tiny_cfg, teacher_checkpoint):
    with pytest.raises(DistillError, match=r'give either model.student.checkpoint or model.start, not both'):
        build_distiller(
            tiny_cfg,
            model__student=dict(tiny_cfg.model.teacher, checkpoint=teacher_checkpoint, _delete_=True),
            model__start=dict(type='LeastSquaresStart'),
        )


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(images=0), 'images of LeastSquaresStart must be a whole number, 1 or more, but found 0'),
        (dict(batch_size=0.5), 'batch_size of LeastSquaresStart must be'),
        (dict(positions=-1), 'positions of LeastSquaresStart must be'),
        (dict(ridge=-1), 'ridge of LeastSquaresStart must be 0 or more, but found -1'),
        (dict(residual='both'), "residual of LeastSquaresStart must be 'branch' or 'sum', but found 'both'"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(DistillError, match=message):
        LeastSquaresStart(**settings)


def test_a_layer_without_a_finite_solution_keeps_its_weights():
    teacher, student = own_pair()
    with torch.no_grad():
        teacher.model.model.fc.bias[0] = float('inf')
        ChannelSelection().apply(teacher, student, None)
        before = student.model.model.fc.weight.clone()
    assert 'model.fc' not in start(teacher, student, images_of(48)).errors
    assert torch.equal(student.model.model.fc.weight, before)


def test_outputs_that_are_not_finite_are_an_error():
    teacher, student = own_pair()
    with pytest.raises(DistillError, match=r'found no layer with a finite solution: the generated images or .* check'):
        start(teacher, student, images_of(8) * float('nan'))


# In runs


def test_two_ranks_start_alike(tiny_cfg, tmp_path):
    """Also with a teacher that is split over them."""
    tiny_cfg.model.start = dict(type='LeastSquaresStart', images=12, batch_size=4, residual='sum')
    tiny_cfg.model.teacher.shard = True
    tiny_cfg.train_cfg.max_iters = 1
    tiny_cfg.train_cfg.phases = [dict(name='generation', steps=1)]
    alone = run(tiny_cfg).model.state_dict()
    tiny_cfg.work_dir = str(tmp_path / 'ranks')
    tiny_cfg.train_dataloader.batch_size //= 2
    one, other = (state['model'] for state in train(tiny_cfg, 2))
    assert_same_state(one, other)
    for key in ('backbone.layer1.0.conv1.weight', 'head.fc.bias'):
        key = f'student.logits.model.{key}'
        torch.testing.assert_close(one[key], alone[key], rtol=0, atol=1e-5)


def test_a_compiled_student_and_other_precision(tiny_cfg):
    """Hooks work beside torch.compile and autocast."""
    states = []
    for compiled in (False, True):
        distiller, _ = build_distiller(tiny_cfg, model__start=dict(type='LeastSquaresStart', images=8, batch_size=4))
        if compiled:
            distiller.student.logits.compile(backend='eager')
            with torch.no_grad():
                distiller.student.eval().predict(images_of(4))
        with torch.autocast('cpu', torch.bfloat16, enabled=compiled):
            distiller.apply_start(lambda count: images_of(count))
        states.append(distiller.student.model.state_dict())
    assert_same_state(*states)
