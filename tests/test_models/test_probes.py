"""Images that no student trains on."""

import pytest
import torch
from conftest import TINY_SEG
from distillers import build_distiller
from torch import nn

from mmdfad.models.objectives import BNStatisticsPrior
from mmdfad.models.probes import Probes
from mmdfad.models.step import Step

SIZE = (16, 16)


@pytest.fixture
def few(monkeypatch):
    for name, value in dict(IMAGES=12, DENSE_IMAGES=9, WARMUP=6, BATCH=8).items():
        monkeypatch.setattr(f'mmdfad.models.probes.{name}', value)


@pytest.fixture
def distiller(tiny_cfg, few):
    return build_distiller(tiny_cfg)[0]


def statistics_gap(teacher, images):
    prior = BNStatisticsPrior(distance='kl')
    taps = prior.bind(teacher, teacher)
    teacher.install(taps)
    with torch.no_grad(), teacher.recording(taps):
        step = Step(images, None)
        step.teacher = teacher(images)
        return prior(step)


def test_sets_of_a_teacher_with_batch_norm(distiller):
    teacher = distiller.teacher
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    random = torch.get_rng_state()
    probes = Probes(teacher, SIZE)
    images = probes.images
    assert images.keys() == {'inverted', 'leaves'}
    low, high = teacher.pixel_space.bounds(3)
    for name, batch in images.items():
        assert batch.shape == (probes.count, 3, *SIZE), name
        assert batch.isfinite().all()
        assert (batch >= low - 1e-4).all(), name
        assert (batch <= high + 1e-4).all(), name
        assert len(batch.flatten(1).unique(dim=0)) == len(batch), name
    gaps = {name: statistics_gap(teacher, batch) for name, batch in images.items()}
    assert gaps['inverted'] < gaps['leaves']
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[key], value) for key, value in teacher.model.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training


def test_the_images_are_a_function_of_the_teacher(distiller):
    first, second = (Probes(distiller.teacher, SIZE).images for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.no_grad():
        next(m for m in distiller.teacher.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1)
    assert not torch.equal(first['inverted'], Probes(distiller.teacher, SIZE).images['inverted'])


def without_batch_norm(teacher):
    for module in teacher.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())
    return teacher


def test_a_classifier_without_batch_norm_has_images_that_it_is_sure_of(distiller):
    teacher = without_batch_norm(distiller.teacher)
    images = Probes(teacher, SIZE).images
    assert images.keys() == {'sure', 'leaves'}
    assert images['sure'].shape == images['leaves'].shape
    with torch.no_grad():
        confidence = {name: teacher(batch).logits.softmax(1).amax(1).mean() for name, batch in images.items()}
    assert confidence['sure'] > confidence['leaves']


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_a_segmentor_without_batch_norm_has_dead_leaves_only(distiller):
    assert Probes(without_batch_norm(distiller.teacher), SIZE).images.keys() == {'leaves'}


def test_the_agreement_is_that_of_the_labels(distiller):
    pairs = distiller.probe_pairs()
    images = Probes(distiller.teacher, SIZE).images
    distiller.eval()
    for name, batch in images.items():
        with torch.no_grad():
            same = distiller.student.predict(batch).argmax(1) == distiller.teacher.predict(batch).argmax(1)
        assert pairs[name].agreement == pytest.approx(float(same.float().mean()))
        assert pairs[name].total() == same.numel()


def test_validation_labels_probe_images_and_those_of_the_generator(distiller):
    noise = torch.randn(3, distiller.generator.noise_dim)
    samples = distiller.val_step(dict(noise=[*noise], probe=[0, 11, 12]))
    assert [sample.get('probe') for sample in samples] == [None] * 3 + ['inverted'] * 2 + ['leaves'] * 2
    assert distiller.training
