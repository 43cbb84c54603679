"""Attention transfer against numbers by hand and an independent rendering, and in a distiller."""

import math

import numpy as np
import pytest
import torch
from conftest import both_tasks
from distillers import assert_refused, build_distiller, noise_for

from mmdfad.models import AttentionTransfer
from mmdfad.models.step import Output, Step, Tap

STAGES = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4']


def taps(role, names):
    return [Tap(role, name) for name in names]


def step_for(teacher, student, size=1):
    """A step that has recorded these features at the stages of the two networks."""
    outputs = [
        Output(torch.zeros(1), dict(zip(taps(role, STAGES), features, strict=True)))
        for role, features in (('teacher', teacher), ('student', student))
    ]
    return Step(torch.zeros(1, 3, *(size if isinstance(size, tuple) else (size, size))), None, 0, 0.0, *outputs)


@pytest.fixture
def bound(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    objective = AttentionTransfer()
    assert objective.bind(distiller.teacher, distiller.student) == {*taps('teacher', STAGES), *taps('student', STAGES)}
    return objective


def test_by_hand(bound):
    """Maps of two pixels: (3, 4) of the teacher, which is (.6, .8) normalised, and (1, 0) of the student."""
    teacher = torch.tensor([[[[math.sqrt(2), 2.0]], [[2.0, 2.0]]]])  # mean of squares: (2 + 4) / 2, (4 + 4) / 2
    student = torch.tensor([[[[-5.0, 0.0]]]])
    expected = ((0.6 - 1) ** 2 + (0.8 - 0) ** 2) / 2
    zeros = torch.zeros(1, 2, 1, 2)
    value = bound(step_for([teacher, zeros, zeros, zeros], [student, zeros, zeros, zeros], (1, 2)))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    twice = bound(step_for([teacher, zeros, teacher, zeros], [student, zeros, student, zeros], (1, 2)))
    assert twice.item() == pytest.approx(2 * expected, rel=1e-6)


def random_features(seed, widths=(3, 4, 5, 6), sizes=(6, 4, 2, 1)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, w, s, s, generator=generator) for w, s in zip(widths, sizes, strict=True)]


def test_against_numpy_with_other_widths(bound):
    teacher, student = random_features(0), random_features(1, widths=(2, 3, 4, 5))
    expected = 0.0
    for pair in zip(teacher, student, strict=True):
        maps = [(f.double().numpy() ** 2).mean(1).reshape(5, -1) for f in pair]
        maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
        expected += ((maps[0] - maps[1]) ** 2).mean()
    assert bound(step_for(teacher, student)).item() == pytest.approx(expected, rel=1e-5)


def test_zero_where_the_maps_have_the_same_shape_and_gradients_to_the_student(bound):
    teacher = random_features(0)
    student = [(-2 * f).requires_grad_() for f in teacher]  # neither sign nor scale matters
    assert bound(step_for(teacher, student)).item() == pytest.approx(0, abs=1e-12)
    student = [f.requires_grad_() for f in random_features(1)]
    bound(step_for(teacher, student)).backward()
    assert all(f.grad.abs().sum() > 0 for f in student[:3])  # the last has one pixel


def test_maps_of_other_sizes_are_resized(bound):
    teacher = random_features(0)
    student = [f.repeat_interleave(2, 2).repeat_interleave(2, 3) for f in teacher]
    value = bound(step_for(teacher, student))
    assert 0 <= value < bound(step_for(teacher, random_features(1)))


def test_tokens_have_their_channels_last(bound):
    teacher, student = random_features(0), random_features(1)
    tokens = [[f.flatten(2).transpose(1, 2) for f in features] for features in (teacher, student)]
    assert bound(step_for(*tokens)).item() == pytest.approx(bound(step_for(teacher, student)).item(), rel=1e-5)


def test_maps_with_channels_last(bound):
    teacher, student = (random_features(seed, widths=(13, 14, 15, 16), sizes=(6, 4, 3, 2)) for seed in (0, 1))
    moved = [[f.movedim(1, 3) for f in features] for features in (teacher, student)]
    assert bound(step_for(*moved)) == bound(step_for(teacher, student))


def test_tokens_of_other_numbers_become_maps(bound):
    """As maps do: a student that sees smaller images has fewer tokens."""
    teacher, student = random_features(0), random_features(1, sizes=(3, 2, 1, 1))
    tokens = [[f.flatten(2).transpose(1, 2) for f in features] for features in (teacher, student)]
    assert bound(step_for(*tokens, size=32)).item() == pytest.approx(bound(step_for(teacher, student)).item(), rel=1e-5)


@both_tasks
def test_a_distiller_records_the_stages(tiny_cfg):
    imitation = [dict(type='KLDiscrepancy'), dict(type='AttentionTransfer', weight=10)]
    distiller, optim = build_distiller(tiny_cfg, model__imitation=imitation)
    stages = {'teacher': {}, 'student': {}}
    for network in (distiller.teacher, distiller.student):
        for name in STAGES:
            network.model.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, kept=stages[network.role], name=name: kept.__setitem__(name, output)
            )
    log = distiller.imitation_step(noise_for(4), optim['student'])
    expected = 0.0
    for name in STAGES:
        maps = [stages[role][name].detach().square().mean(1).flatten(1) for role in ('teacher', 'student')]
        maps = [m / m.norm(dim=1, keepdim=True) for m in maps]
        expected += float((maps[0] - maps[1]).square().mean())
    assert log['imitation_attention'].item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0
    total = log['imitation_kl'] + 10 * log['imitation_attention']
    assert log['imitation_loss'].item() == pytest.approx(total.item(), rel=1e-5)


def test_stages_by_name(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    objective = AttentionTransfer(teacher_stages=['backbone.layer2'], student_stages=['backbone.layer2.0'])
    bound = objective.bind(distiller.teacher, distiller.student)
    assert bound == {Tap('teacher', 'backbone.layer2'), Tap('student', 'backbone.layer2.0')}


def test_unequal_numbers_of_stages_are_named(tiny_cfg):
    imitation = [dict(type='AttentionTransfer', teacher_stages=['backbone.layer2'])]
    assert_refused(
        tiny_cfg,
        r"finds \['backbone.layer2'\] in the teacher and \['backbone.layer1'.*\] in the student; set its teacher_",
        model__imitation=imitation,
    )


def test_unknown_stages_are_named(tiny_cfg):
    imitation = [dict(type='AttentionTransfer', teacher_stages=['layer9'], student_stages=['backbone.layer2'])]
    assert_refused(tiny_cfg, r"wants to see 'layer9', but model.teacher has no such module", model__imitation=imitation)
