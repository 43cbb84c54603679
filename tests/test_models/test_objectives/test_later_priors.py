"""The priors of DAFL and FastDFKD: large activations, and labels that are drawn."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import both_tasks
from distillers import assert_refused, build_distiller, noise_for

from mmdfad.models import ActivationPrior, DrawnLabelPrior
from mmdfad.models.chance import LABELS, uniform
from mmdfad.models.objectives.priors import classifier_of, draw_labels
from mmdfad.models.step import Output, Step, Tap

# Large activations


@both_tasks
def test_the_input_of_the_classifier_is_recorded(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg, model__generation=[dict(type='ActivationPrior', weight=0.5)])
    model = distiller.teacher.model
    name = 'head.fc' if hasattr(model, 'head') else 'decode_head.conv_seg'
    seen = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    log = distiller.generation_step(noise_for(4), optim['generator'])
    assert classifier_of(model) == name
    assert log['generation_loss'].item() == pytest.approx(-0.5 * seen[0].abs().mean().item(), rel=1e-5)
    assert log['generation_loss'] < 0


def test_activation_by_hand():
    prior = ActivationPrior()
    prior._tap = Tap('teacher', 'fc', 'input')
    features = torch.tensor([[1.0, -2.0], [0.0, 5.0]])
    assert prior(Step(torch.zeros(1), None, teacher=Output(torch.zeros(1), {prior._tap: features}))).item() == -2


def test_another_module(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    prior = ActivationPrior(module='backbone.layer3')
    assert prior.bind(distiller.teacher, distiller.student) == {Tap('teacher', 'backbone.layer3', 'input')}
    assert_refused(
        tiny_cfg,
        r"wants to see 'backbone.layer9', but model.teacher has no such module",
        model__generation=[dict(type='ActivationPrior', module='backbone.layer9')],
    )


# Drawn labels


def noise_of(count, seed=0):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def step_for(logits, noise):
    return Step(torch.zeros(1), noise, teacher=Output(logits))


def test_labels_are_uniform_and_belong_to_the_noise():
    noise = noise_of(5000)
    labels = draw_labels(noise, 5)
    assert labels.dtype == torch.long
    counts = Counter(labels.tolist())
    assert set(counts) == set(range(5))
    assert all(abs(count - 1000) < 150 for count in counts.values())  # five standard deviations
    assert torch.equal(labels, torch.floor(uniform(noise, LABELS)[:, 0] * 5).long())
    assert torch.equal(torch.cat([draw_labels(part, 5) for part in noise.split(999)]), labels)


@pytest.mark.parametrize('shape', [(6, 5), (6, 5, 3, 4)])
def test_drawn_label_against_numpy(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    noise = noise_of(6)
    value = DrawnLabelPrior()(step_for(logits, noise))
    data = np.moveaxis(logits.double().numpy(), 1, -1).reshape(6, -1, 5)
    log_probabilities = data - np.log(np.exp(data).sum(-1, keepdims=True))
    labels = draw_labels(noise, 5).tolist()
    # All pixels of an image have its label.
    expected = -np.mean([log_probabilities[i, :, label] for i, label in enumerate(labels)])
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_drawn_labels_reward_the_right_ones():
    noise = noise_of(6)
    labels = draw_labels(noise, 5)
    right = 10 * torch.nn.functional.one_hot(labels, 5).float()
    wrong = right.roll(1, dims=1)
    assert DrawnLabelPrior()(step_for(right, noise)) < 0.01
    assert DrawnLabelPrior()(step_for(wrong, noise)) > 5


@both_tasks
def test_drawn_labels_in_a_distiller(tiny_cfg):
    distiller, optim = build_distiller(tiny_cfg, model__generation=[dict(type='DrawnLabelPrior')])
    noise, logits = noise_for(4), []
    distiller.teacher.register_forward_hook(lambda module, inputs, output: logits.append(output.logits.detach()))
    log = distiller.generation_step(noise, optim['generator'])
    expected = DrawnLabelPrior()(step_for(logits[-1], noise))
    assert log['generation_loss'].item() == pytest.approx(expected.item(), rel=1e-6)
