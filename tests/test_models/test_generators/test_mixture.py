"""Several generators, each of which makes a part of every batch."""

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper

from mmdfad.acceleration.layout import to_channels_last
from mmdfad.models.generators import AugmentedGenerator, EMAGenerator, MixtureGenerator, ReplayGenerator
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

SHAPE = dict(noise_dim=6, image_size=(8, 10))
DECODER = dict(type='DecoderGenerator', width=4, upsamplings=2, **SHAPE)
POOL = dict(type='InversionPool', generator=DECODER, capacity=20, steps=3, shift=2)
LEAVES = dict(type='DeadLeaves', shapes=20, **SHAPE)
BANK = dict(type='ImageBank', count=7, init=dict(LEAVES), shift=2, **SHAPE)
SPACE = PixelSpace(torch.tensor([120.0, 110.0, 100.0]).double(), torch.tensor([60.0, 55.0, 50.0]).double(), True)


def build(*generators, **settings):
    torch.manual_seed(0)
    mixture = MixtureGenerator(list(generators or (POOL, BANK, LEAVES)), **settings)
    mixture.bind_pixels(SPACE)
    return mixture.eval()


def noise_of(count=6, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def loss(images, noise=None):
    return (images * torch.linspace(0, 1, images[0].numel()).view_as(images[0])).square().sum() / len(images)


def values_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(before, module):
    return [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]


@pytest.mark.parametrize(
    ('shares', 'count', 'sizes'),
    [
        (None, 6, (2, 2, 2)),
        (None, 2, (1, 0, 1)),
        (None, 7, (2, 3, 2)),
        ((2, 1, 1), 8, (4, 2, 2)),
        ((0.5, 0.0, 0.5), 6, (3, 0, 3)),
        ((0, 0, 3), 5, (0, 0, 5)),
    ],
)
def test_each_makes_its_part(shares, count, sizes):
    mixture, noise = build(shares=shares), noise_of(count)
    mixture.update(noise_of(), loss, optim_of(mixture))
    mixture.eval()
    for make in ('forward', 'sample'):
        images = getattr(mixture, make)(noise)
        assert images.shape == (count, 3, 8, 10)
        start = 0
        for generator, size in zip(mixture.generators, sizes, strict=True):
            part = noise[start : start + size]
            if size:
                assert torch.equal(images[start : start + size], getattr(generator, make)(part))
            start += size
    assert not images.requires_grad


def optim_of(mixture, **optimizer):
    optimizer = optimizer or dict(type='Adam', lr=0.01)
    return build_optim_wrapper(mixture.learner, dict(type='OptimWrapper', optimizer=optimizer))


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.1), dict(type='Adam', lr=0.01, fused=True)]
)
def test_a_step_moves_one_generator_only(optimizer):
    """Neither momentum nor weight decay moves the others."""
    mixture = build(POOL, BANK)
    mixture.train()
    optim, steps = optim_of(mixture, **optimizer), []
    step = optim.step
    pool, bank = mixture.generators

    def watched():
        before = values_of(pool), values_of(bank)
        step()
        steps.append((any(moved(before[0], pool)), any(moved(before[1], bank))))

    optim.step = watched
    for seed in range(2):
        mixture.update(noise_of(seed=seed), loss, optim)
    assert steps == [(True, False)] * 3 + [(False, True)] + [(True, False)] * 3 + [(False, True)]
    assert mixture.steps_per_update == 4
    assert len(pool.memory) == 12


def test_it_learns_what_each_learns_alone():
    mixture, alone = build(POOL, BANK), build(POOL, BANK)
    mixture.train()
    alone.train()
    shared = optim_of(mixture)
    own = [OptimWrapper(torch.optim.Adam(g.learner.parameters(), lr=0.01)) for g in alone.generators]
    for seed in range(2):
        mixture.update(noise_of(seed=seed), loss, shared)
        for generator, optim in zip(alone.generators, own, strict=True):
            generator.update(noise_of(seed=seed), loss, optim)
    for ours, theirs in zip(mixture.state_dict().values(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_only_those_learn_that_have_something_to_learn():
    mixture = build()
    learners = [generator.learner for generator in mixture.generators]
    assert [*mixture.learner.parameters()] == [*learners[0].parameters(), *learners[1].parameters()]
    assert mixture.learns
    assert not build(LEAVES, LEAVES).learns
    assert build(LEAVES, LEAVES).steps_per_update == 0


def test_each_may_have_its_own_learning_rate():
    mixture = build(POOL, BANK)
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='Adam', lr=2e-3),
        paramwise_cfg=dict(custom_keys={'pixels': dict(lr_mult=15)}),
    )
    groups = build_optim_wrapper(mixture.learner, cfg).param_groups
    rates = {parameter: group['lr'] for group in groups for parameter in group['params']}
    assert rates[mixture.generators[1].pixels] == pytest.approx(0.03)
    assert {rates[parameter] for parameter in mixture.generators[0].parameters()} == {2e-3}


def test_learners_are_accelerated_one_by_one():
    mixture = build()
    to_channels_last(mixture.learner, noise_of(2))
    convolution = mixture.generators[0].generator.stages[0].conv
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    mixture.learner.compile(backend='eager')
    assert mixture.generators[0].generator._compiled_call_impl is not None
    assert mixture.generators[1]._compiled_call_impl is not None


def test_wrappers_work_around_it_and_inside():
    mixture = dict(type='MixtureGenerator', generators=[EMAGenerator(POOL), BANK])
    wrapper = AugmentedGenerator(ReplayGenerator(mixture, capacity=4, replayed=2, push=2), shift=1)
    wrapper.bind_pixels(SPACE)
    assert wrapper.steps_per_update == 4
    for seed in range(2):
        wrapper.update(noise_of(seed=seed), loss, optim_of(wrapper))
    assert wrapper.sample(noise_of(4)).shape == (4 + 2, 3, 8, 10)
    with pytest.raises(DistillError, match=r'EMAGenerator averages one generator.*put the EMAGenerator into'):
        EMAGenerator(mixture)


@pytest.mark.parametrize(
    ('generators', 'settings', 'message'),
    [
        ([], dict(), r'model.generator.generators must be a list of generators, but found \[\]'),
        (POOL, dict(), r'model.generator.generators must be a list of generators'),
        ([POOL, 'leaves'], dict(), r"model.generator.generators\[1\] must be a dict with `type`, but found 'leaves'"),
        ([POOL, dict(LEAVES, noise_dim=7)], dict(), r'all have the same noise_dim, but found \[6, 7\]; set it in each'),
        ([POOL, dict(LEAVES, image_size=8)], dict(), r'the same image_size, but found \[\(8, 10\), \(8, 8\)\]'),
        ([POOL, dict(LEAVES, channels=1)], dict(), r'the same channels, but found \[3, 1\]'),
        ([POOL, LEAVES], dict(shares=(1,)), r'model.generator.shares must be 2 numbers, .* but found \[1\]'),
        ([POOL, LEAVES], dict(shares=(1, -1)), r'model.generator.shares must be 2 numbers, .* but found \[1, -1\]'),
        ([POOL, LEAVES], dict(shares=(0, 0)), r'model.generator.shares must be 2 numbers, .* but found \[0, 0\]'),
    ],
)
def test_bad_settings_are_named(generators, settings, message):
    with pytest.raises(DistillError, match=message):
        MixtureGenerator(generators, **settings)
