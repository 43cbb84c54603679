"""The pool of images that a generator makes while it learns."""

import copy

import pytest
import torch
from conftest import assert_same_state, build_runner, keep_hooks
from distillers import build_distiller, noise_for
from mmengine.optim import OptimWrapper
from ranks import train

from mmdfad.models.generators import (
    AugmentedGenerator,
    EMAGenerator,
    ImageBank,
    InversionPool,
    MetaGenerator,
    MixtureGenerator,
)
from mmdfad.models.generators.wrappers import flip_and_shift
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

DECODER = dict(type='DecoderGenerator', noise_dim=6, image_size=8, width=4, upsamplings=2)
BANK = dict(type='ImageBank', noise_dim=6, image_size=8, count=4)


def build(**settings):
    torch.manual_seed(0)
    return InversionPool(DECODER, **{**dict(capacity=20, steps=3, shift=2), **settings})


def noise_of(count=6, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def optim_of(generator, kind=OptimWrapper, **settings):
    return kind(torch.optim.SGD(generator.learner.parameters(), lr=0.1), **settings)


def loss(images, noise=None):
    return (images * torch.linspace(0, 1, images[0].numel()).view_as(images[0])).square().mean()


class ScaledOptimWrapper(OptimWrapper):
    """Scales losses as mmengine's ``AmpOptimWrapper`` does, which needs an accelerator."""

    def __init__(self, optimizer, scale):
        super().__init__(optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def test_the_generator_and_its_noise_learn():
    """Its own weights, not a copy's, by its own optimizer."""
    pool, noise, seen = build(), noise_of(), []
    plain, z = copy.deepcopy(pool.generator), noise.clone().requires_grad_()
    weights = torch.optim.SGD(plain.parameters(), lr=0.1)
    vectors = torch.optim.Adam([z], lr=1e-2, betas=(0.5, 0.999))

    def watched(images, own_noise):
        seen.append((images.detach(), own_noise))
        return loss(images)

    pool.update(noise, watched, optim_of(pool))
    for step in range(3):
        weights.zero_grad()
        vectors.zero_grad()
        images = plain(z)
        augmented = flip_and_shift(images, noise, 0.5, 2, step)
        torch.testing.assert_close(seen[step][0], augmented.detach(), rtol=0, atol=1e-5)
        assert torch.equal(seen[step][1], noise_of())
        loss(augmented).backward()
        z.grad[:, [0, -1]] = 0  # they decide on the texture
        weights.step()
        vectors.step()
    assert len(seen) == 3
    assert (z - noise).abs().max() > 0.02
    for ours, theirs in zip(pool.generator.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert len(pool.memory) == 6
    torch.testing.assert_close(pool.memory.images[:6], images.detach(), rtol=0, atol=1e-5)
    assert torch.equal(noise, noise_of())
    assert not noise.requires_grad


def test_samples_come_from_the_memory_once_it_has_images():
    pool, noise = build(), noise_of(30, seed=5)
    pool.generator.eval()
    assert torch.equal(pool.sample(noise), pool.generator(noise))
    for seed in range(4):
        pool.update(noise_of(seed=seed), loss, optim_of(pool))
    assert len(pool.memory) == 20
    assert torch.equal(pool.sample(noise), pool.memory.draw(noise))
    assert not pool.sample(noise).requires_grad


def test_a_new_generator_takes_over():
    """With other weights and a fresh optimizer. Its first images are not kept."""
    pool = build(renew=3, warmup=1, capacity=100)
    optim = OptimWrapper(torch.optim.Adam(pool.learner.parameters(), lr=0.01))
    weights, counts = [], []
    for seed in range(7):
        before = [p.detach().clone() for p in pool.parameters()]
        pool.update(noise_of(seed=seed), loss, optim)
        weights.append(max((a - b).abs().max().item() for a, b in zip(before, pool.parameters(), strict=True)))
        counts.append(int(optim.optimizer.state[pool.generator.project.weight]['step']))
    assert counts == [3, 6, 9, 3, 6, 9, 3]
    assert len(pool.memory) == 4 * 6
    # Adam moves a weight by 0.01 a step. Other weights are further away.
    assert [w > 0.1 for w in weights] == [False, False, False, True, False, False, True]


def test_a_new_generator_takes_no_gradient_of_the_old_one():
    """One that waits for the rest of an accumulation."""
    pool = build(renew=1, steps=3)
    optim = OptimWrapper(torch.optim.SGD(pool.learner.parameters(), lr=0.0), accumulative_counts=2)
    optim.initialize_count_status(pool, 0, 6)
    pool.update(noise_of(), loss, optim)
    waiting = pool.generator.project.weight.grad.clone()
    assert waiting.abs().max() > 0
    pool._age(optim)
    assert all(p.grad is None for p in pool.generator.parameters())


def test_another_generator_of_a_mixture_keeps_its_optimizer_when_one_is_renewed():
    pool = build(renew=1)
    mixture = MixtureGenerator([pool, ImageBank(6, 8, count=4)])
    mixture.bind_pixels(PixelSpace(torch.zeros(3).double(), torch.full((3,), 255.0).double(), False))
    optim = OptimWrapper(torch.optim.Adam(mixture.learner.parameters(), lr=0.01))
    for seed in range(3):
        mixture.update(noise_of(seed=seed), loss, optim)
    assert int(optim.optimizer.state[mixture.generators[1].pixels]['step']) == 3
    assert int(optim.optimizer.state[pool.generator.project.weight]['step']) == 3  # of one update


def test_gradients_are_scaled_in_fp16_and_back():
    plain, scaled = build(), build()
    plain.update(noise_of(), loss, optim_of(plain))
    scaled.update(noise_of(), loss, optim_of(scaled, ScaledOptimWrapper, scale=2.0**20))
    assert_same_state(scaled.state_dict(), plain.state_dict())


def test_a_step_that_overflows_is_left_out():
    pool, expected = build(steps=2, flip=0.0, shift=0), build(steps=1, flip=0.0, shift=0)
    optim = optim_of(pool, ScaledOptimWrapper, scale=2.0**120)
    optim.loss_scaler.set_backoff_factor(2.0**-120)
    pool.update(noise_of(), lambda images, noise: 2.0**20 * loss(images), optim)
    expected.update(noise_of(), lambda images, noise: 2.0**20 * loss(images), optim_of(expected))
    assert torch.equal(pool.memory.images, expected.memory.images)
    for ours, theirs in zip(pool.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_wrappers_work_around_it():
    replay = dict(type='ReplayGenerator', generator=build(), capacity=4, replayed=2, push=2)
    wrapper = AugmentedGenerator(EMAGenerator(replay), shift=1)
    pool = wrapper.generator.generator.generator
    assert isinstance(pool, InversionPool)
    assert wrapper.steps_per_update == 3
    assert wrapper.learner is pool.generator
    for seed in range(2):
        wrapper.update(noise_of(seed=seed), loss, optim_of(wrapper))
    assert wrapper.sample(noise_of(4)).shape == (2 + 2 + 2, 3, 8, 8)
    assert len(pool.memory) == 12


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(capacity=0), r'model.generator.capacity must be a whole number, 1 or more, but found 0'),
        (dict(steps=0), r'model.generator.steps must be a whole number, 1 or more, but found 0'),
        (dict(shift=8), r'model.generator.shift must be a whole number from 0 to 7.*but found 8'),
        (dict(renew=0), r'model.generator.renew must be a whole number, 1 or more, but found 0'),
        (dict(warmup=-1), r'model.generator.warmup must be a whole number from 0, but found -1'),
        (dict(renew=3, warmup=3), r'from 0, less than model.generator.renew=3, but found 3'),
        (dict(flip=-1), r'model.generator.flip must be between 0 and 1, but found -1'),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(DistillError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ('inner', 'message'),
    [
        (
            dict(type='RandomImageGenerator', image_size=8),
            r'but RandomImageGenerator learns nothing: remove {0}, or set',
        ),
        (dict(type='EMAGenerator', generator=DECODER), r'{0} must be the innermost wrapper, but has a EMAGenerator'),
        (dict(type='MixtureGenerator', generators=[DECODER]), r'has a MixtureGenerator inside; put the Mixture'),
        (BANK, r'an ImageBank does not make images from noise: remove one of the two'),
    ],
)
@pytest.mark.parametrize('kind', [InversionPool, MetaGenerator])
def test_it_needs_a_generator_that_learns_from_noise(kind, inner, message):
    with pytest.raises(DistillError, match=message.format(kind.__name__)):
        kind(inner, capacity=4)


# Whole runs


@pytest.fixture
def pool_cfg(tiny_cfg):
    keep_hooks(tiny_cfg, 'checkpoint')
    decoder = dict(DECODER, noise_dim=16, image_size=16)
    tiny_cfg.model.generator = dict(
        type='InversionPool', generator=decoder, capacity=20, steps=3, shift=2, renew=2, warmup=1
    )
    tiny_cfg.model.generation = [dict(type='DrawnLabelPrior'), dict(type='TotalVariationPrior', weight=0.1)]
    # Adam takes a whole step also where a gradient is next to zero.
    tiny_cfg.optim_wrapper.generator.optimizer.update(lr=0.01, eps=1e-4)
    tiny_cfg.train_cfg.max_iters = 4
    return tiny_cfg


def test_objectives_see_the_noise_as_it_was(pool_cfg):
    """So each image keeps the label that is drawn for it."""
    distiller, optim_wrapper = build_distiller(pool_cfg)
    seen = []
    distiller.generation[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].noise))
    distiller.generation_step(noise_for(4), optim_wrapper['generator'])
    assert [torch.equal(noise, noise_for(4)) for noise in seen] == [True] * 3


def test_two_ranks_learn_as_one(pool_cfg, tmp_path):
    pool_cfg.custom_hooks = [dict(type='mmdfad.FreezeNorms')]
    pool_cfg.custom_imports.imports.append('test_distributed')
    pool_cfg.randomness.seed = 1  # with 0, Adam takes a step of the noise whose sign is decided by rounding
    states = {}
    for ranks in (1, 2):
        pool_cfg.work_dir = str(tmp_path / str(ranks))
        pool_cfg.train_dataloader.batch_size = 8 // ranks
        states[ranks] = train(pool_cfg, ranks)
    assert_same_state(states[2][0]['model'], states[2][1]['model'])
    whole, parts = states[1][0]['model'], states[2][0]['model']
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-5, msg=lambda m, k=key: f'{k}: {m}')
    assert int(whole['generator.memory.pushed']) == 2 * 8
    pool_cfg.custom_hooks = []
    name = 'generator.generator.project.weight'
    assert not torch.equal(whole[name], build_runner(pool_cfg).model.state_dict()[name])
