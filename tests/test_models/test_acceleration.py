"""Faster players compute the same."""

import copy
import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import TINY_SEG, both_tasks, build_runner
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmdfad.models.acceleration import (
    cast_weights,
    checkpoint_activations,
    fold_norms,
    hasten_dilations,
    suits_channels_last,
    to_channels_last,
)
from mmdfad.models.logits import as_logits
from mmdfad.models.players import build_model, plain_config
from mmdfad.utils import DistillError
from mmdfad.utils.model import unwrap
from mmdfad.utils.state_dict import weights_sha256


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def trained(model: nn.Module) -> nn.Module:
    """Statistics and scales as of a trained model: no two channels alike."""
    torch.manual_seed(0)
    for norm in norms_of(model):
        nn.init.normal_(norm.running_mean, 0, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ('config', 'size', 'left'),
    [
        ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', 32, 0),
        ('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 32, 0),
        ('mmpretrain::densenet/densenet121_4xb256_in1k.py', 32, 62),  # many of its norms come before a convolution
        ('mmpretrain::repvgg/repvgg-A0_8xb32_in1k.py', 32, 0),
        ('mmpretrain::mobileone/mobileone-s0_8xb32_in1k.py', 32, 0),
        ('mmpretrain::levit/levit-128s_8xb256_in1k.py', 224, 0),
        ('mmpretrain::riformer/riformer-s12_8xb128_in1k.py', 64, 0),  # has none, but can be reparameterised
        ('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', 64, None),
    ],
)
def test_folded_models_give_the_same_logits(config, size, left):
    teacher = trained(as_logits(build_model(plain_config(dict(cfg_path=config), 'teacher'), 'teacher')))
    weights = weights_sha256(teacher.model)
    images = torch.randn(2, 3, size, size)
    folded = fold_norms(teacher, images)
    assert folded is not teacher
    if left is not None:
        assert len(norms_of(folded)) == left
    images = torch.randn(2, 3, size, size)
    exact = teacher(images)
    torch.testing.assert_close(folded(images), exact, rtol=0, atol=1e-5 * exact.abs().max().item())
    assert weights == weights_sha256(teacher.model)
    assert not any(m.training for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())


class Twigs(nn.Module):
    """Convolutions and batch norms in ways that a fold must not touch, and one that it may."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.shared = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.norms[0](self.once(images))
        second = self.norms[1](self.twice(images)) + self.norms[2](self.twice(images + 1))
        shared = self.shared(images)
        third = self.norms[3](shared) + self.norms[4](shared)
        return (first + second + third).mean((2, 3))


def test_only_pairs_of_one_convolution_and_one_norm_are_folded():
    model = trained(Twigs())
    images = torch.randn(2, 3, 8, 8)
    folded = fold_norms(model, images)
    assert [isinstance(m, nn.Identity) for m in folded.norms] == [True, False, False, False, False]
    assert folded.twice.weight is model.twice.weight  # what is not folded is shared
    assert folded.once.weight is not model.once.weight
    torch.testing.assert_close(folded(images), model(images))


class Peeking(nn.Module):
    """Uses what comes before the batch norm too, which no look at modules can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images)
        return (features + self.norm(features)).mean((2, 3))


def test_folds_that_are_wrong_are_not_used(caplog):
    model = trained(Peeking())
    logger = MMLogger.get_instance('folds', log_level='INFO')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        assert fold_norms(model, torch.randn(2, 3, 8, 8)) is model
    assert 'The teacher is not folded: its logits would be off by' in caplog.text


@both_tasks
def test_distiller_folds_its_teacher_within_tolerance(tiny_cfg):
    distiller = build_runner(tiny_cfg).model
    images = distiller.generator(torch.randn(8, 16)).detach()
    exact, folded = distiller.teacher(images), distiller.folded_teacher(images)
    assert norms_of(distiller.teacher)
    assert not norms_of(distiller.folded_teacher)
    assert not any('folded' in name for name, _ in distiller.named_modules())
    assert (folded - exact).norm() / exact.norm() < 1e-5
    with torch.autocast('cpu', torch.bfloat16):
        rounded = distiller.folded_teacher(images)
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 2e-2  # as docs/performance.md states
    assert build_runner(tiny_cfg, model__fold_teacher=False).model.folded_teacher is not distiller.folded_teacher


def test_folded_teacher_is_used_but_where_a_prior_looks_into_it(tiny_cfg):
    for priors, in_generation in (((), 'folded'), ([dict(type='BNStatisticsPrior')], 'exact')):
        runner = build_runner(tiny_cfg, model__generation_priors=priors)
        distiller = unwrap(runner.model)
        optim = runner.build_optim_wrapper(runner.optim_wrapper)
        seen = []
        for name, teacher in dict(exact=distiller.teacher, folded=distiller.folded_teacher).items():
            teacher.register_forward_hook(lambda *_, name=name, seen=seen: seen.append(name))
        distiller.train()
        distiller.imitation_step(torch.randn(8, 16), optim['student'])
        distiller.generation_step(torch.randn(8, 16), optim['generator'])
        assert seen == ['folded', in_generation]


# Weights in the type of the steps


def test_cast_weights_give_the_same_logits_to_the_bit(tiny_cfg):
    teacher = trained(build_runner(tiny_cfg).model.teacher)
    images = torch.randn(4, 3, 16, 16)
    cast = copy.deepcopy(teacher)
    cast_weights(cast, torch.bfloat16)
    assert {p.dtype for p in cast.parameters()} == {torch.bfloat16, torch.float32}  # the latter of batch norms
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(cast(images), teacher(images))


@pytest.mark.parametrize(
    ('settings', 'imitation', 'generation'),
    [
        (dict(), ('folded', torch.float32), ('folded', torch.float32)),
        (dict(amp_dtype='bfloat16'), ('folded', torch.bfloat16), ('folded', torch.bfloat16)),
        (dict(student=dict(amp_dtype='bfloat16')), ('folded', torch.bfloat16), ('exact', torch.float32)),
    ],
)
def test_folded_teacher_is_kept_in_the_type_of_its_first_step(tiny_cfg, settings, imitation, generation):
    runner = build_runner(tiny_cfg, optim_wrapper=settings, train_cfg__max_iters=1, train_cfg__imitation_steps=1)
    distiller = runner.model
    checksum = weights_sha256(distiller.teacher.model)
    seen = []
    for name, teacher in dict(exact=distiller.teacher, folded=distiller.folded_teacher).items():
        convolution = teacher.model.backbone.conv1
        convolution.register_forward_hook(lambda m, *_, name=name: seen.append((name, m.weight.dtype)))
    runner.train()
    assert seen[:2] == [imitation, generation]  # what comes after are images of the teacher for people to see
    assert weights_sha256(distiller.teacher.model) == checksum


# Dilations


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (12, 12), (13, 24), (25, 40)])
@pytest.mark.parametrize(
    'settings',
    [
        dict(kernel_size=3, dilation=12, padding=12),
        dict(kernel_size=5, dilation=(4, 6), padding=(8, 12)),
        dict(kernel_size=3, dilation=6, padding=6, groups=4),
        dict(kernel_size=3, dilation=(2, 4), padding=(2, 4), groups=4, out_channels=4),
        dict(kernel_size=(5, 3), dilation=(1, 2), padding=(2, 2), groups=4, bias=False),
        dict(kernel_size=(1, 7), dilation=(1, 3), padding=(0, 9)),
        dict(kernel_size=3, dilation=4, padding=7),
        dict(kernel_size=3, dilation=4, padding=7, groups=4),
    ],
)
def test_hastened_dilations_compute_the_same(settings, size):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, **{'out_channels': 8, **settings}).double()
    hastened = copy.deepcopy(plain)
    hasten_dilations(hastened)
    hastened = copy.deepcopy(hastened)  # as averaged models are
    images = torch.randn(2, 4, *size, dtype=torch.double)
    results = []
    for convolution in (plain, hastened):
        inputs = images.clone().requires_grad_()
        output = convolution(inputs)
        output.square().sum().backward()
        results.append((output, inputs.grad, *(p.grad for p in convolution.parameters())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert hastened.state_dict().keys() == plain.state_dict().keys()


class Dilations(TorchDispatchMode):
    """Collects those of convolutions."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.found.append(tuple(args[5]))
        return func(*args, **(kwargs or {}))


def test_depthwise_convolutions_learn_without_dilation():
    images = torch.randn(2, 4, 12, 12)
    for groups, training, gradients, dilation in (
        (4, True, True, (1, 1)),
        (4, False, True, (3, 3)),
        (4, True, False, (3, 3)),
        (2, True, True, (3, 3)),
    ):
        convolution = nn.Conv2d(4, 4, 3, dilation=3, padding=3, groups=groups).train(training)
        hasten_dilations(convolution, only_in_training=True)
        with Dilations() as dilations, torch.set_grad_enabled(gradients):
            convolution(images)
        assert dilations.found == [dilation]


def flops_of(step: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_deeplab_does_not_multiply_padding(tiny_cfg):
    """The student only where it learns: in eval mode its logits are those of the exported student to the last bit."""
    for player in ('teacher', 'student'):
        tiny_cfg.model[player].decode_head.update(dilations=(1, 12, 24, 36), dropout_ratio=0.0)
    tiny_cfg.model.update(allow_random_teacher=True, teacher=dict(checkpoint=None))
    trimmed, plain = (
        build_runner(tiny_cfg, model__hasten_dilations=on, randomness__seed=0).model for on in (True, False)
    )
    images = torch.randn(2, 3, 32, 32)
    for player, training, fewer in (
        ('student', True, True),
        ('student', False, False),
        ('folded_teacher', False, True),
        ('teacher', False, False),
    ):
        ours, theirs = (getattr(distiller, player).train(training) for distiller in (trimmed, plain))
        if fewer:
            torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(ours(images), theirs(images))
        assert (flops_of(partial(ours, images)) < flops_of(partial(theirs, images))) == fewer


# Channels last


class MergingView(nn.Module):
    """As DMNet's dynamic convolutions: batch and channels as one axis, which takes features with channels first."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.view(1, -1, *features.shape[2:])


@pytest.mark.parametrize(
    ('width', 'last', 'suits'), [(16, nn.Identity(), True), (8, nn.Identity(), False), (16, MergingView(), False)]
)
def test_channels_last_unless_it_would_crash(width, last, suits):
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 1, stride=2), last)
    images = torch.randn(2, 3, 9, 9)
    expected = model(images)
    to_channels_last(model, images)
    torch.testing.assert_close(model(images), expected)
    assert suits_channels_last(model, images) == suits
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) == suits


def test_student_computes_in_it_only_where_it_learns(tiny_cfg):
    """In eval mode its logits are those of the exported student to the last bit."""
    tiny_cfg.model.student.backbone.update(base_channels=16, stem_channels=16)
    tiny_cfg.model.student.head.in_channels = 128
    distiller = build_runner(tiny_cfg).model
    layouts = []
    distiller.student.model.backbone.layer1.register_forward_hook(
        lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    for training in (True, False):
        distiller.train(training)
        distiller.student_logits(torch.randn(4, 3, 16, 16))
    assert layouts == [True, False]
    assert all(p.is_contiguous() for p in distiller.student.parameters())


@pytest.mark.parametrize('channels', [1, 3])
def test_models_without_channels_last_do_not_compute_in_it(tiny_cfg, channels):
    """In which the narrow student's backward pass would corrupt memory."""
    tiny_cfg.model.generator.update(channels=channels, width=32)
    for player in ('teacher', 'student'):
        tiny_cfg.model[player].backbone.in_channels = channels
        tiny_cfg.model[player].data_preprocessor = dict(mean=[0.0] * channels, std=[1.0] * channels)
    distiller = build_runner(tiny_cfg, model__teacher__checkpoint=None, model__allow_random_teacher=True).model
    assert distiller.generator.decoder[1].weight.is_contiguous(memory_format=torch.channels_last)
    images = distiller.generator(torch.randn(4, 16))
    assert images.stride() == torch.empty(images.shape).stride()
    features = distiller.student.model.backbone.conv1(images)
    assert features.is_contiguous()


def test_options_can_be_turned_off(tiny_cfg):
    tiny_cfg.model.teacher.backbone.update(base_channels=16, stem_channels=16)
    tiny_cfg.model.teacher.head.in_channels = 128
    tiny_cfg.model.update(allow_random_teacher=True, teacher=dict(checkpoint=None))
    for on in (True, False):
        distiller = build_runner(tiny_cfg, model__channels_last=on, model__fold_teacher=on).model
        assert (distiller.folded_teacher is distiller.teacher) != on
        for teacher in (distiller.teacher, distiller.folded_teacher):
            assert teacher.model.backbone.layer1[0].conv1.weight.is_contiguous() != on


# Activation checkpointing


def saved_bytes(step) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def test_checkpointed_parts_compute_the_same_with_less_memory():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()) for _ in range(4))
    )
    saving = copy.deepcopy(model)
    checkpoint_activations(saving, ['0', '1', '2', '3'], 'model.checkpointed.student')
    images = torch.randn(8, 4, 16, 16)
    kept = []
    for player in (model, saving):
        torch.manual_seed(1)
        results = []
        kept.append(saved_bytes(lambda player=player, results=results: results.append(player(images).square().mean())))
        results[0].backward()
    assert kept[1] < kept[0] / 2
    for ours, theirs in zip(saving.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(saving.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # a batch was counted once
    assert all(norm.track_running_stats for norm in norms_of(saving))


@both_tasks
def test_runs_with_checkpointed_parts_are_bitwise_the_same(tiny_cfg):
    parts = dict(teacher=['backbone.layer1', 'backbone.layer2'], student=['backbone.layer1'])
    states = []
    for checkpointed in (None, parts):
        runner = build_runner(tiny_cfg, model__checkpointed=checkpointed, train_cfg__max_iters=2)
        runner.train()
        states.append(runner.model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_unknown_parts_and_players_are_named(tiny_cfg):
    with pytest.raises(DistillError, match=r"checkpointed.teacher names 'layer1', .* its parts are .*backbone.layer1"):
        build_runner(tiny_cfg, model__checkpointed=dict(teacher=['layer1']))
    with pytest.raises(DistillError, match=r"checkpointed names players, of teacher, student, but found 'generator'"):
        build_runner(tiny_cfg, model__checkpointed=dict(generator=['decoder']))
    with pytest.raises(DistillError, match=r"compiled names players, of teacher, .* but found 'critic'"):
        build_runner(tiny_cfg, model__compiled=dict(critic=dict()))


def test_compiled_players_compute_the_same(tiny_cfg):
    """With the backend that needs no compiler."""
    backend = dict(backend='aot_eager')
    states = []
    for compiled in (None, dict(teacher=backend, student=backend, generator=backend)):
        runner = build_runner(tiny_cfg, model__compiled=compiled, train_cfg__max_iters=1)
        runner.train()
        states.append(runner.model.state_dict())
    assert runner.model.student._compiled_call_impl is not None
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-4)
