"""The bank of images whose pixels are the parameters."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same_run, assert_same_state, build_runner, keep_hooks
from distillers import build_distiller, noise_for
from mmengine.optim import OptimWrapper
from ranks import train
from torch import nn

from mmdfad.models.chance import FLIPS, PICKS, SHIFTS, SWEEPS, uniform
from mmdfad.models.generators import AugmentedGenerator, EMAGenerator, ImageBank, MetaGenerator, ReplayGenerator
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

SPACE = PixelSpace(torch.tensor([120.0, 110.0, 100.0]).double(), torch.tensor([60.0, 55.0, 50.0]).double(), True)
BANK = dict(type='ImageBank', noise_dim=16, image_size=16, count=7, shift=2)


def build(bound=True, **settings):
    torch.manual_seed(0)
    bank = ImageBank(**{'noise_dim': 6, 'image_size': (8, 10), 'count': 7, 'shift': 2, **settings})
    if bound:
        bank.bind_pixels(SPACE)
    return bank


def noise_of(count=3, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def optim_of(bank, **settings):
    return OptimWrapper(torch.optim.SGD(bank.parameters(), lr=0.1), **settings)


def loss(images, noise=None):
    return (images * torch.linspace(0, 1, images[0].numel()).view_as(images[0])).square().sum() / len(images)


# Where the pixels begin


def test_pixels_begin_as_the_images_of_init_by_the_seed():
    bank = build()
    low, high = SPACE.bounds(3)
    shares = (bank.pixels.detach() - low) / (high - low)
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.std() > 0.15
    assert torch.equal(build().pixels, bank.pixels)
    torch.manual_seed(1)
    bank.bind_pixels(SPACE)
    assert not torch.equal(build().pixels, bank.pixels)
    init = build(bound=False)._init.value
    assert (type(init).__name__, init.noise_dim, init.image_size, init.channels) == ('DeadLeaves', 6, (8, 10), 3)


def test_a_fixed_bank_learns_nothing():
    fixed = build(fixed=True)
    assert build().learns
    assert not fixed.learns
    assert torch.equal(fixed.pixels, build().pixels)
    assert torch.equal(fixed.sample(noise_of()), build().sample(noise_of()))


@pytest.mark.parametrize(
    'init',
    [
        dict(type='RandomImageGenerator'),
        dict(type='UpsampleGenerator', width=8),
        dict(type='AugmentedGenerator', generator=dict(type='DeadLeaves', noise_dim=3, image_size=(8, 10)), shift=2),
    ],
)
def test_other_images_to_begin_with(init):
    bank = build(init=init)
    images = bank._init.value.sample(torch.randn(7, bank._init.value.noise_dim))
    assert images.shape == bank.pixels.shape
    low, high = SPACE.bounds(3)
    assert ((bank.pixels >= low) & (bank.pixels <= high)).all()
    assert bank.pixels.std() > 0.1
    assert [name for name, _ in bank.named_parameters()] == ['pixels']
    assert set(bank.state_dict()) == {'pixels', 'codes', 'low', 'high'}


@pytest.mark.parametrize('channels', [1, 3])
def test_pixels_stay_viewable(channels):
    space = SPACE if channels == 3 else PixelSpace(SPACE.mean[:1], SPACE.std[:1], False)
    bank = build(bound=False, channels=channels, shift=0)
    bank.bind_pixels(space)
    low, high = ((value - space.mean) / space.std for value in (0, 255))
    for sign in (1, -1):
        for seed in range(3):
            bank.update(noise_of(seed=seed), lambda images, codes, s=sign: s * 1e3 * images.sum(), optim_of(bank))
        expected = (low if sign == 1 else high).float().view(-1, 1, 1).expand_as(bank.pixels)
        torch.testing.assert_close(bank.pixels.detach(), expected, rtol=0, atol=1e-6)


# Sweeps


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Linear(4, 5)
        nn.init.normal_(self.norm.running_mean)
        self.requires_grad_(False).eval().double()

    def forward(self, images):
        self.seen = self.conv(images)
        return self.fc(self.norm(self.seen).relu().mean((2, 3)))


def test_sweeps_equal_a_plain_rendering():
    """Inversion of 7 images in chunks of 3, 2 and 2, by Adam with a schedule (law 4)."""
    torch.manual_seed(0)
    bank, teacher = build(count=7).double(), Teacher()
    low, high = (torch.as_tensor((value - SPACE.mean) / SPACE.std).view(3, 1, 1) for value in (0, 255))
    torch.testing.assert_close(torch.stack([bank.low, bank.high]), torch.stack([low, high]), rtol=0, atol=1e-6)
    bank.low, bank.high = low, high
    plain = [image.clone().requires_grad_() for image in bank.pixels.detach()]
    codes = bank.codes.clone()

    def prior(images, labels):
        logits = teacher(images)
        var, mean = torch.var_mean(teacher.seen, (0, 2, 3), correction=0)
        ratio = (var + 1e-5) / (1 + 1e-5)
        divergence = (ratio - 1 - ratio.log() + (teacher.norm.running_mean - mean) ** 2 / (1 + 1e-5)).mean() / 2
        return divergence + 0.1 * F.cross_entropy(logits, labels)

    ours = torch.optim.Adam(bank.parameters(), lr=0.1, betas=(0.5, 0.9))
    theirs = torch.optim.Adam(plain, lr=0.1, betas=(0.5, 0.9))
    for sweep in range(4):
        for optim in (ours, theirs):
            optim.param_groups[0]['lr'] = 0.1 / (1 + sweep)
        noise = noise_of(3, seed=sweep).double()

        def own_loss(images, own_codes):
            return prior(images, (uniform(own_codes, 0)[:, 0] * 5).long())

        bank.update(noise, own_loss, OptimWrapper(ours))

        theirs.zero_grad()
        order = uniform(noise[:1], SWEEPS, 7)[0].argsort().tolist()
        for chunk in (order[:3], order[3:5], order[5:]):
            images = []
            for i in chunk:
                key = torch.stack([codes[i, 0], noise[0, 0]])[None]
                image = plain[i].flip(2) if uniform(key, FLIPS)[0, 0] < 0.5 else plain[i]
                y, x = (int(5 * u) for u in uniform(key, SHIFTS, 2)[0])
                images.append(F.pad(image[None], [2] * 4, mode='reflect')[0, :, y : y + 8, x : x + 10])
            labels = (uniform(codes[chunk], 0)[:, 0] * 5).long()
            (prior(torch.stack(images), labels) * len(chunk)).backward()
        theirs.step()
        with torch.no_grad():
            for image in plain:
                image.copy_(image.clamp(low, high))
    torch.testing.assert_close(bank.pixels.detach(), torch.stack(plain).detach(), rtol=0, atol=1e-9)
    assert (bank.pixels == low).any()


def test_each_image_is_seen_once_with_its_own_code():
    bank, seen = build(flip=0.0, shift=0), []

    def watched(images, codes):
        seen.append((images.detach(), codes))
        return loss(images)

    before = bank.pixels.detach().clone()
    bank.update(noise_of(3), watched, optim_of(bank))
    assert [len(images) for images, _ in seen] == [3, 2, 2]
    images, codes = (torch.cat(parts) for parts in zip(*seen, strict=True))
    found = [next(i for i, pixels in enumerate(before) if torch.equal(pixels, image)) for image in images]
    assert sorted(found) == list(range(7))
    assert found != list(range(7))
    assert torch.equal(codes, bank.codes[found])
    # The gradient of an image's own loss, whatever the chunk.
    step = 0.1 * 2 * before * torch.linspace(0, 1, before[0].numel()).view_as(before[0]) ** 2
    torch.testing.assert_close(bank.pixels.detach(), before - step, rtol=0, atol=1e-5)

    again = build(flip=0.0, shift=0)
    again.update(noise_of(30), lambda images, codes: seen.append((images, codes)) or loss(images), optim_of(again))
    assert len(seen) == 4  # one chunk holds all
    torch.testing.assert_close(again.pixels, bank.pixels, rtol=0, atol=1e-5)


def test_updates_are_accumulated_like_any_others():
    bank = build()
    optim = optim_of(bank, accumulative_counts=2)
    optim.initialize_count_status(bank, 0, 4)
    before = bank.pixels.detach().clone()
    bank.update(noise_of(seed=1), loss, optim)
    assert torch.equal(bank.pixels, before)
    bank.update(noise_of(seed=2), loss, optim)
    assert not torch.equal(bank.pixels, before)


def test_gradients_are_scaled_in_fp16_and_back():
    """Small gradients do not become zero on the way, and do not depend on the scale."""

    class Scaler:
        def get_scale(self):
            return 1024.0

    plain, scaled = build(), build()
    values = []

    def watched(images, codes):
        images.register_hook(lambda gradient: values.append(gradient.abs().max()))
        return loss(images)

    plain.update(noise_of(), watched, optim_of(plain))
    optim = optim_of(scaled)
    optim.loss_scaler = Scaler()
    scaled.update(noise_of(), watched, optim)
    assert torch.equal(plain.pixels, scaled.pixels)
    assert torch.equal(torch.stack(values[3:]), 1024 * torch.stack(values[:3]))


# Samples and wrappers


def test_noise_picks_images():
    bank, noise = build(), noise_of(300)
    images = bank.sample(noise)
    assert not images.requires_grad
    assert torch.equal(images, bank.pixels[(uniform(noise, PICKS)[:, 0] * 7).long()])
    counts = torch.bincount((uniform(noise, PICKS)[:, 0] * 7).long())
    assert counts.min() > 20
    assert bank(noise).requires_grad


def test_wrappers_work_around_it():
    replay = dict(type='ReplayGenerator', generator=dict(BANK, noise_dim=6), capacity=4, replayed=2, push=2)
    wrapper = AugmentedGenerator(EMAGenerator(replay, decay=0.5), shift=1)
    wrapper.bind_pixels(SPACE)
    bank, average = wrapper.learner, wrapper.generator.average
    assert isinstance(bank, ImageBank)
    assert torch.equal(bank.pixels, average.pixels)
    before = bank.pixels.detach().clone()
    for seed in range(2):
        wrapper.update(noise_of(seed=seed), loss, optim_of(bank))
    first, second = average.pixels - before, bank.pixels - before
    assert 0.3 < (first.norm() / second.norm()) < 0.9
    assert wrapper.sample(noise_of(4)).shape == (2 + 2 + 2, 3, 16, 16)
    assert isinstance(wrapper.generator.generator, ReplayGenerator)
    assert len(wrapper.generator.generator.memory) == 4


def test_a_copy_has_its_own_pixels():
    bank = build()
    other = copy.deepcopy(bank)
    other.update(noise_of(), loss, optim_of(other))
    assert not torch.equal(other.pixels, bank.pixels)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(count=0), r'model.generator.count must be a whole number, 1 or more, but found 0'),
        (dict(shift=8), r'model.generator.shift must be a whole number from 0 to 7.*but found 8'),
        (dict(flip=2), r'model.generator.flip must be between 0 and 1, but found 2'),
        (dict(init=dict(type='NoSuch')), r'cannot build model.generator.init=.*NoSuch'),
        (dict(init='leaves'), r"model.generator.init must be a dict with `type`, but found 'leaves'"),
        (dict(channels=1), r'model.generator makes images of 1 channel\(s\).* set model.generator.channels=3'),
        (
            dict(init=dict(type='DeadLeaves', image_size=9)),
            r'model.generator.init makes images of \[3, 9, 9\], but model.generator those of \[3, 8, 10\]',
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(DistillError, match=message):
        build(**settings)


def test_meta_learning_needs_a_generator_of_noise():
    with pytest.raises(DistillError, match=r'an ImageBank does not make images from noise: remove one of the two'):
        MetaGenerator(dict(BANK, noise_dim=6), capacity=4)


# Whole runs


@pytest.fixture
def bank_cfg(tiny_cfg):
    keep_hooks(tiny_cfg, 'checkpoint')
    tiny_cfg.model.generator = BANK
    tiny_cfg.model.generation = [dict(type='DrawnLabelPrior'), dict(type='TotalVariationPrior', weight=0.1)]
    # Adam takes a whole step also where a gradient is next to zero.
    tiny_cfg.optim_wrapper.generator.optimizer.update(lr=0.03, eps=1e-3)
    tiny_cfg.train_dataloader.batch_size = 4
    tiny_cfg.train_cfg.max_iters = 4
    return tiny_cfg


def test_objectives_see_the_codes_of_the_images(bank_cfg):
    """So each image keeps the label that is drawn for it."""
    distiller, optim_wrapper = build_distiller(bank_cfg)
    seen = []
    distiller.generation[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].noise))
    distiller.generation_step(noise_for(4), optim_wrapper['generator'])
    assert [len(noise) for noise in seen] == [4, 3]
    codes = distiller.generator.codes
    assert sorted(torch.cat(seen)[:, 0].tolist()) == sorted(codes[:, 0].tolist())


def test_a_run_is_resumed_exactly(bank_cfg, tmp_path):
    whole = build_runner(bank_cfg)
    before = whole.model.generator.pixels.detach().clone()
    whole.train()
    assert not torch.equal(whole.model.generator.pixels, before)
    resumed = build_runner(
        bank_cfg, work_dir=str(tmp_path / 'resumed'), load_from=f'{bank_cfg.work_dir}/iter_2.pth', resume=True
    )
    resumed.train()
    assert_same_run(resumed, whole)


def test_two_ranks_sweep_as_one(bank_cfg, tmp_path):
    bank_cfg.custom_hooks = [dict(type='mmdfad.FreezeNorms')]
    bank_cfg.custom_imports.imports.append('test_distributed')
    states = {}
    for ranks in (1, 2):
        bank_cfg.work_dir = str(tmp_path / str(ranks))
        bank_cfg.train_dataloader.batch_size = 4 // ranks  # chunks of 4 and 3: the second rank gets 2 and 1
        states[ranks] = train(bank_cfg, ranks)
    assert_same_state(states[2][0]['model'], states[2][1]['model'])
    whole, parts = states[1][0]['model'], states[2][0]['model']
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-5, msg=lambda m, k=key: f'{k}: {m}')
    bank_cfg.custom_hooks = []
    assert not torch.equal(whole['generator.pixels'], build_runner(bank_cfg).model.generator.pixels)
