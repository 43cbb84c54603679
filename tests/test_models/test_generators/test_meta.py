"""The generator that is a good start for a few steps of inversion."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmdfad.models import MetaGenerator
from mmdfad.models.generators.wrappers import flip_and_shift
from mmdfad.utils import DistillError

INNER = dict(type='UpsampleGenerator', noise_dim=6, image_size=8, width=8)


def build(**settings):
    torch.manual_seed(0)
    return MetaGenerator(INNER, **{**dict(capacity=20, steps=3, shift=2), **settings})


def noise_of(count=6, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def optim_of(generator, **settings):
    return OptimWrapper(torch.optim.SGD(generator.learner.parameters(), lr=0.1), **settings)


def loss(images):
    return (images * torch.linspace(0, 1, images.numel()).view_as(images)).square().mean()


def watch(seen, value_of=loss):
    """A loss that keeps the images that it sees."""

    def watched(images):
        seen.append(images.detach().clone())
        return value_of(images)

    return watched


def inner_steps(generator, noise, steps, flip=0.0, shift=0):
    """The images of a copy, its gradients, and the copy itself, at each of its steps."""
    copied, z = copy.deepcopy(generator), noise.clone().requires_grad_()
    optim = torch.optim.Adam([dict(params=copied.parameters(), lr=2e-3), dict(params=z, lr=1e-2)], betas=(0.5, 0.999))
    for step in range(steps):
        images = copied(z)
        optim.zero_grad()
        loss(flip_and_shift(images, noise, flip, shift, step)).backward()
        yield images.detach(), [p.grad.clone() for p in copied.parameters()], copied
        optim.step()


@pytest.mark.parametrize('steps', [1, 4])
def test_the_generator_moves_by_the_sum_of_the_copys_gradients(steps):
    meta, noise = build(steps=steps), noise_of()
    before = [p.detach().clone() for p in meta.generator.parameters()]
    gradients = [g for _, g, _ in inner_steps(meta.generator, noise, steps, flip=0.5, shift=2)]
    meta.update(noise, loss, optim_of(meta))
    for parameter, start, *own in zip(meta.generator.parameters(), before, *gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), start - 0.1 * sum(own), rtol=0, atol=1e-6)
    assert any(not torch.equal(p, start) for p, start in zip(meta.generator.parameters(), before, strict=True))


def test_gradients_are_scaled_in_fp16_and_back():
    class Scaler:
        def get_scale(self):
            return 2.0**20

    plain, scaled, noise, peaks = build(), build(), noise_of(), []

    def watched(images):
        images.register_hook(lambda gradient: peaks.append(gradient.abs().max()))
        return loss(images)

    plain.update(noise, watched, optim_of(plain))
    optim = optim_of(scaled)
    optim.loss_scaler = Scaler()
    scaled.update(noise, watched, optim)
    torch.testing.assert_close(torch.stack(peaks[3:]), 2.0**20 * torch.stack(peaks[:3]))
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_images_change_from_step_to_step_by_weights_and_noise():
    meta, noise, seen = build(flip=0.0, shift=0), noise_of(), []
    expected = [images for images, _, _ in inner_steps(meta.generator, noise, 3)]
    untouched = noise.clone()
    meta.update(noise, watch(seen), optim_of(meta))
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(noise, untouched)
    assert not noise.requires_grad


@pytest.mark.parametrize(('values', 'best'), [((3.0, 1.0, 2.0), 1), ((1.0, 1.0, 1.0), 0), ((3.0, 2.0, 1.0), 2)])
def test_the_best_batch_is_kept(values, best):
    meta, seen = build(flip=0.0, shift=0), []
    remaining = iter(values)
    meta.update(noise_of(), watch(seen, lambda images: loss(images) * 0 + next(remaining)), optim_of(meta))
    assert len(meta.memory) == 6
    assert torch.equal(meta.memory.images[:6], seen[best])


def test_the_loss_sees_augmented_images_and_the_memory_does_not():
    meta, noise, seen = build(steps=3), noise_of(), []
    remaining = iter((2.0, 1.0, 3.0))
    meta.update(noise, watch(seen, lambda images: loss(images) * 0 + next(remaining)), optim_of(meta))
    assert torch.equal(flip_and_shift(meta.memory.images[:6], noise, 0.5, 2, draw=1), seen[1])
    assert not torch.equal(meta.memory.images[:6], seen[1])


def test_samples_come_from_the_memory_once_it_has_images():
    meta, noise = build(), noise_of(30, seed=5)
    meta.generator.eval()
    assert torch.equal(meta.sample(noise), meta.generator(noise))
    for seed in range(2):
        meta.update(noise_of(seed=seed), loss, optim_of(meta))
    kept = meta.memory.images[:12]
    drawn = {next(i for i, k in enumerate(kept) if torch.equal(image, k)) for image in meta.sample(noise)}
    assert len(drawn) > 6
    assert torch.equal(meta.sample(noise), meta.memory.draw(noise))


def test_the_statistics_of_the_copy_are_taken_over():
    """Without them the images in eval mode would not look like those that the generator learns with."""
    meta, noise = build(flip=0.5, shift=2), noise_of()
    *_, (_, _, copied) = inner_steps(meta.generator, noise, 3, flip=0.5, shift=2)
    meta.update(noise, loss, optim_of(meta))
    statistics = dict(meta.generator.named_buffers())
    assert statistics['decoder.9.num_batches_tracked'] == 3
    for name, value in copied.named_buffers():
        torch.testing.assert_close(statistics[name], value, rtol=0, atol=1e-6)


def test_updates_are_accumulated_like_any_others():
    """The optimizer wrapper takes one step for two updates."""
    meta = build()
    optim = optim_of(meta, accumulative_counts=2)
    optim.initialize_count_status(meta, 0, 4)
    before = meta.generator.project.weight.detach().clone()
    expected = [next(iter(g)) for seed in (1, 2) for g in [sum_of_gradients(meta, seed)]]
    meta.update(noise_of(seed=1), loss, optim)
    assert torch.equal(meta.generator.project.weight, before)
    meta.update(noise_of(seed=2), loss, optim)
    step = 0.1 * sum(expected) / 2
    torch.testing.assert_close(meta.generator.project.weight.detach(), before - step, rtol=0, atol=1e-6)
    assert len(meta.memory) == 12


def sum_of_gradients(meta, seed):
    steps = [g for _, g, _ in inner_steps(meta.generator, noise_of(seed=seed), meta.steps, flip=0.5, shift=2)]
    return [sum(own) for own in zip(*steps, strict=True)]


def test_only_the_weights_of_the_generator_learn():
    meta = build()
    meta.update(noise_of(), loss, optim_of(meta))
    assert meta.learner is meta.generator
    assert 'memory.images' in meta.state_dict()
    assert not meta.memory.images.requires_grad


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(capacity=0), r'model.generator.capacity must be a whole number, 1 or more, but found 0'),
        (dict(steps=0), r'model.generator.steps must be a whole number, 1 or more, but found 0'),
        (dict(shift=8), r'model.generator.shift must be a whole number from 0 to 7.*but found 8'),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(DistillError, match=message):
        build(**settings)


def test_other_wrappers_belong_around_it():
    with pytest.raises(DistillError, match=r'must be the innermost wrapper, but has a EMAGenerator inside'):
        MetaGenerator(dict(type='EMAGenerator', generator=INNER), capacity=4)
