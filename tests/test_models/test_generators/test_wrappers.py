"""Generators around generators."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper

from mmdfad.models import AugmentedGenerator, EMAGenerator, ReplayGenerator, UpsampleGenerator
from mmdfad.models.chance import BOXES, uniform
from mmdfad.models.generators import Generator, GeneratorWrapper
from mmdfad.models.generators.wrappers import flip_and_shift, paste_boxes
from mmdfad.models.parts import build_part
from mmdfad.utils import DistillError

INNER = dict(type='UpsampleGenerator', noise_dim=6, image_size=8, width=8)
KINDS = {
    GeneratorWrapper: dict(),
    AugmentedGenerator: dict(shift=2),
    ReplayGenerator: dict(capacity=6, replayed=3),
    EMAGenerator: dict(),
}
wrappers = pytest.mark.parametrize('kind', KINDS)


def build(kind, **settings):
    torch.manual_seed(0)
    return kind(generator=INNER, **{**KINDS.get(kind, {}), **settings})


def noise_of(count=6, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def optim_of(generator, lr=0.1):
    return OptimWrapper(torch.optim.SGD(generator.learner.parameters(), lr=lr))


def loss(images):
    return (images * torch.linspace(0, 1, images.numel()).view_as(images)).square().mean()


def assert_same(ours, theirs):
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


# What all wrappers do


@wrappers
def test_the_generator_inside_learns_as_if_alone(kind):
    wrapper = build(kind)
    alone, noise = copy.deepcopy(wrapper.generator), noise_of()
    assert isinstance(alone, UpsampleGenerator)
    assert wrapper.learner is wrapper.generator
    assert wrapper.learns
    assert (wrapper.noise_dim, wrapper.image_size, wrapper.channels) == (6, (8, 8), 3)
    assert torch.equal(wrapper(noise), alone(noise))
    for step in range(3):
        wrapper.update(noise_of(seed=step), loss, optim_of(wrapper))
        alone.update(noise_of(seed=step), loss, optim_of(alone))
    assert_same(wrapper.generator, alone)


@wrappers
def test_samples_have_no_gradients_and_change_no_weight(kind):
    wrapper = build(kind)
    before = {name: value.clone() for name, value in wrapper.named_parameters()}
    assert not wrapper.sample(noise_of()).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in wrapper.named_parameters())


def test_wrappers_are_nested():
    replay = dict(type='ReplayGenerator', generator=INNER, capacity=6, replayed=3, push=2)
    wrapper = AugmentedGenerator(dict(type='EMAGenerator', generator=replay), shift=1)
    assert isinstance(wrapper.learner, UpsampleGenerator)
    for seed in range(2):
        wrapper.update(noise_of(seed=seed), loss, optim_of(wrapper))
    # Three images of the generator, three of the memory, three of the average.
    assert wrapper.sample(noise_of()).shape == (9, 3, 8, 8)


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (ReplayGenerator, dict(capacity=0), r'model.generator.capacity must be a whole number, 1 or more, but found 0'),
        (ReplayGenerator, dict(replayed=0), r'model.generator.replayed must be a whole number, 1 or more, but found 0'),
        (ReplayGenerator, dict(push=0), r'model.generator.push must be a whole number, 1 or more, but found 0'),
        (EMAGenerator, dict(decay=1.5), r'model.generator.decay must be between 0 and 1, but found 1.5'),
        (EMAGenerator, dict(share=-1), r'model.generator.share must be between 0 and 1, but found -1'),
        (AugmentedGenerator, dict(flip=2), r'model.generator.flip must be between 0 and 1, but found 2'),
        (AugmentedGenerator, dict(cut=-0.5), r'model.generator.cut must be between 0 and 1, but found -0.5'),
        (AugmentedGenerator, dict(shift=8), r'model.generator.shift must be a whole number from 0 to 7.*but found 8'),
        (AugmentedGenerator, dict(shift=0.5), r'model.generator.shift must be a whole number.*but found 0.5'),
    ],
)
def test_bad_settings_are_named(kind, settings, message):
    with pytest.raises(DistillError, match=message):
        build(kind, **settings)


def test_settings_of_generators_inside_are_named_by_their_place():
    inner = dict(type='ReplayGenerator', generator=dict(INNER, image_size=-1), capacity=6, replayed=3)
    with pytest.raises(DistillError, match=r'^model.generator.generator.generator.image_size must'):
        build_part(dict(type='AugmentedGenerator', generator=inner), 'model.generator', Generator)
    inner = dict(type='AugmentedGenerator', generator=INNER, shift=8)
    with pytest.raises(DistillError, match=r'^model.generator.generators\[1\].shift must be a whole number'):
        build_part(dict(type='MixtureGenerator', generators=[INNER, inner]), 'model.generator', Generator)


@pytest.mark.parametrize('ranks', [1, 3])
def test_ranks_share_the_replayed_images(ranks, monkeypatch):
    wrapper = build(ReplayGenerator)
    for seed in range(3):
        wrapper.update(noise_of(seed=seed), loss, optim_of(wrapper))
    monkeypatch.setattr('mmdfad.models.generators.wrappers.get_world_size', lambda: ranks)
    found = []
    for rank in range(ranks):
        monkeypatch.setattr('mmdfad.models.generators.wrappers.get_rank', lambda rank=rank: rank)
        noise = noise_of(seed=9)[rank::ranks]
        found.append(wrapper.sample(noise)[len(noise) :])
    monkeypatch.undo()
    whole = wrapper.sample(noise_of(seed=9))[6:]
    torch.testing.assert_close(torch.cat(found), whole, rtol=0, atol=0)


def test_a_memory_inside_is_not_averaged():
    replay = dict(type='ReplayGenerator', generator=INNER, capacity=6, replayed=6, push=6)
    wrapper = EMAGenerator(replay, decay=0.5)
    wrapper.update(noise_of(), loss, optim_of(wrapper))
    kept = wrapper.generator.memory.images.clone()
    wrapper.eval()
    sampled = wrapper.sample(noise_of(8, seed=1))
    assert torch.equal(wrapper.generator.memory.images, kept)
    assert all(any(torch.equal(image, k) for k in kept) for image in sampled[4:10])
    assert torch.equal(sampled[10:], wrapper.average(noise_of(8, seed=1)[4:]))


# Flips and shifts


def test_flips_and_shifts_are_of_the_image():
    image = torch.arange(36.0).view(1, 1, 6, 6)
    out = flip_and_shift(image.expand(400, -1, -1, -1), noise_of(400), flip=0.5, shift=1)
    padded = F.pad(image, [1] * 4, mode='reflect')[0, 0]
    mirrored = F.pad(image.flip(3), [1] * 4, mode='reflect')[0, 0]
    possible = [p[y : y + 6, x : x + 6] for p in (padded, mirrored) for y in range(3) for x in range(3)]
    found = [next(i for i, p in enumerate(possible) if torch.equal(o[0], p)) for o in out]
    # Each of the 18 is drawn 22 times on average.
    assert all(5 < found.count(i) < 45 for i in range(18))


def test_no_flip_no_shift_and_only_flips():
    images, noise = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), noise_of(5)
    assert torch.equal(flip_and_shift(images, noise, flip=0.0, shift=0), images)
    assert torch.equal(flip_and_shift(images, noise, flip=1.0, shift=0), images.flip(3))


def test_augmentation_belongs_to_the_image_and_to_the_draw():
    images, noise = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(0)), noise_of(40)
    whole = flip_and_shift(images, noise, 0.5, 2)
    halves = [flip_and_shift(i, n, 0.5, 2) for i, n in zip(images.split(20), noise.split(20), strict=True)]
    assert torch.equal(torch.cat(halves), whole)
    other = flip_and_shift(images, noise, 0.5, 2, draw=1)
    changed = (other != whole).flatten(1).any(1)
    assert changed.sum() > 30  # the same flip and shift has a probability of 1 in 50
    assert torch.equal(flip_and_shift(images, noise, 0.5, 2, draw=1), other)


def test_gradients_pass_through_augmentation():
    images = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    flip_and_shift(images, noise_of(4), 0.5, 1).sum().backward()
    # Shifted images lose a border, and see another one twice.
    assert images.grad.sum() == 4 * 36
    assert (images.grad[:, :, 2:4, 2:4] == 1).all()


def test_only_samples_are_augmented():
    wrapper, noise, seen = build(AugmentedGenerator).eval(), noise_of(), []
    plain = wrapper.generator(noise)
    assert torch.equal(wrapper(noise), plain)
    assert torch.equal(wrapper.sample(noise), flip_and_shift(plain, noise, 0.5, 2))
    wrapper.update(noise, lambda images: seen.append(images) or loss(images), optim_of(wrapper))
    assert torch.equal(seen[0], plain)


def test_replayed_images_are_augmented_with_the_noise_of_the_first():
    replay = dict(type='ReplayGenerator', generator=INNER, capacity=6, replayed=6, push=6)
    wrapper = AugmentedGenerator(replay, shift=2)
    wrapper.update(noise_of(), loss, optim_of(wrapper))
    wrapper.eval()
    noise = noise_of(4, seed=1)
    images = wrapper.generator.sample(noise)
    assert len(images) == 10
    assert torch.equal(wrapper.sample(noise), flip_and_shift(images, torch.cat([noise, noise, noise])[:10], 0.5, 2))


# Replay


def test_earlier_images_are_added_once_there_are_enough():
    wrapper, made = build(ReplayGenerator, capacity=4, replayed=3, push=2).eval(), []
    noise = noise_of(5)

    def watched(images):
        made.append(images.detach().clone())
        return loss(images)

    assert torch.equal(wrapper.sample(noise), wrapper(noise))
    wrapper.update(noise_of(seed=1), watched, optim_of(wrapper, lr=10.0))
    assert torch.equal(wrapper.sample(noise), wrapper(noise))  # two images are not three
    wrapper.update(noise_of(seed=2), watched, optim_of(wrapper, lr=10.0))
    kept = torch.cat([images[:2] for images in made])
    assert torch.equal(wrapper.memory.images, kept)
    sampled = wrapper.sample(noise)
    assert len(sampled) == 5 + 3
    assert torch.equal(sampled[:5], wrapper(noise))
    assert all(any(torch.equal(image, k) for k in kept) for image in sampled[5:])
    # They are those of earlier weights.
    assert not torch.equal(wrapper(noise_of(seed=1))[:2], kept[:2])


# The moving average


def test_the_copy_is_the_moving_average_of_all_floating_point_state():
    wrapper = build(EMAGenerator, decay=0.9)
    expected = {name: value.double() for name, value in wrapper.generator.state_dict().items()}
    for seed in range(3):
        wrapper.update(noise_of(seed=seed), loss, optim_of(wrapper))
        for name, value in wrapper.generator.state_dict().items():
            average = 0.9 * expected[name] + 0.1 * value.double()
            expected[name] = average if value.is_floating_point() else value.double()
    assert any(name.endswith('running_var') for name in expected)
    for name, value in wrapper.average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6)
    assert not torch.equal(wrapper.average.project.weight, wrapper.generator.project.weight)


def test_the_copy_does_not_learn_but_is_part_of_the_state():
    wrapper = build(EMAGenerator)
    wrapper.update(noise_of(), loss, optim_of(wrapper))
    assert all(not p.requires_grad and p.grad is None for p in wrapper.average.parameters())
    assert all(p.requires_grad for p in wrapper.generator.parameters())
    assert 'average.project.weight' in wrapper.state_dict()
    assert not {id(p) for p in wrapper.average.parameters()} & {id(p) for p in wrapper.learner.parameters()}


@pytest.mark.parametrize(('share', 'slow'), [(0.5, 3), (0.0, 0), (1.0, 6), (0.25, 2)])
def test_a_share_of_the_samples_comes_from_the_copy(share, slow):
    wrapper = build(EMAGenerator, share=share)
    wrapper.update(noise_of(seed=1), loss, optim_of(wrapper, lr=10.0))
    wrapper.eval()
    noise = noise_of()
    expected = torch.cat([wrapper.generator(noise[: 6 - slow]), wrapper.average(noise[6 - slow :])])
    assert torch.equal(wrapper.sample(noise), expected)
    if slow:
        assert not torch.equal(wrapper.sample(noise), wrapper.generator(noise))


def test_boxes_of_another_image():
    """Drawn pixel by pixel."""
    images, others, noise = torch.zeros(200, 3, 6, 8), torch.ones(200, 3, 6, 8), noise_of(200)
    out = paste_boxes(images, others, noise, share=0.5)
    for image, (chosen, area, y, x) in zip(out, uniform(noise, BOXES, 4).tolist(), strict=True):
        side = area**0.5
        for row in range(6):
            for column in range(8):
                inside = abs((row + 0.5) / 6 - y) < side / 2 and abs((column + 0.5) / 8 - x) < side / 2
                assert (image[:, row, column] == (inside and chosen < 0.5)).all()
    assert 70 < out.flatten(1).any(1).sum() < 110  # of small boxes, some have no centre of a pixel
    assert torch.equal(paste_boxes(images, others, noise, share=0.0), images)


def test_boxes_are_those_of_a_second_image_of_the_same_noise():
    wrapper, noise = build(AugmentedGenerator, cut=1.0).eval(), noise_of()
    flat, images = AugmentedGenerator(wrapper.generator, shift=2), wrapper.sample(noise)
    first, second = flat.sample(noise), flat.sample(noise.flip(1))
    assert ((images == first) | (images == second)).all()
    assert (images == second).any()
    torch.testing.assert_close(wrapper.sample(noise[2:]), images[2:])
