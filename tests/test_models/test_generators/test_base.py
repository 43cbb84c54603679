"""The contract of generators, those that make images of noise, and the baseline without one."""

import copy
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmdfad.models import DCGANGenerator, DecoderGenerator, RandomImageGenerator, UpsampleGenerator
from mmdfad.models.chance import LEVELS, TEXTURE, uniform
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

KINDS = [UpsampleGenerator, DCGANGenerator, DecoderGenerator]


def noise_of(count: int, noise_dim: int) -> torch.Tensor:
    return torch.randn(count, noise_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('image_size', [32, (16, 48), (17, 33), (1, 5), (100, 7)])
@pytest.mark.parametrize('channels', [1, 3, 5])
def test_any_size_and_channels(kind, image_size, channels):
    generator = kind(noise_dim=6, image_size=image_size, channels=channels, width=8)
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    images = generator(noise_of(3, 6))
    assert images.shape == (3, channels, height, width)
    assert images.is_contiguous()
    images.sum().backward()
    # After the last batch norm of generator A the sum of a channel is constant. The gradient is zero, but not None.
    assert all(p.grad is not None for p in generator.parameters())


def test_samples_are_images_without_gradients():
    torch.manual_seed(0)
    generator = UpsampleGenerator(noise_dim=6, image_size=8, width=8).eval()
    noise = noise_of(3, 6)
    images = generator.sample(noise)
    assert not images.requires_grad
    assert torch.equal(images, generator(noise))
    assert generator(noise).requires_grad


@pytest.mark.parametrize('kind', KINDS)
def test_an_update_is_one_step_of_the_optimizer(kind):
    torch.manual_seed(0)
    generator = kind(noise_dim=6, image_size=8, width=8)
    plain, noise = copy.deepcopy(generator), noise_of(5, 6)
    seen = []

    def loss(images):
        seen.append(images)
        return (images * torch.linspace(0, 1, images.numel()).view_as(images)).square().mean()

    optim = torch.optim.SGD(plain.parameters(), lr=0.1)
    loss(plain(noise)).backward()
    optim.step()
    generator.update(noise, loss, OptimWrapper(torch.optim.SGD(generator.parameters(), lr=0.1)))
    assert len(seen) == 2
    assert torch.equal(*seen)
    for ours, theirs in zip(generator.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_generator_learns_if_it_has_something_to_learn():
    generator = UpsampleGenerator(noise_dim=6, image_size=8, width=8)
    assert generator.learner is generator
    assert generator.learns
    assert not generator.requires_grad_(False).learns
    assert not RandomImageGenerator(image_size=8).learns


def reference_upsample(size, noise):
    """Generator A, written from the paper."""
    return nn.Sequential(
        nn.Linear(20, 128 * (size // 4) ** 2),
        nn.Unflatten(1, (128, size // 4, size // 4)),
        nn.BatchNorm2d(128),
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Conv2d(128, 128, 3, 1, 1),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Conv2d(128, 64, 3, 1, 1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 3, 3, 1, 1),
        nn.Tanh(),
        nn.BatchNorm2d(3, affine=False),
    )


def reference_dcgan(size, noise):
    """Generator B, written from the paper."""

    def up(before, after):
        return [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]

    return nn.Sequential(
        nn.Linear(20, 512 * (size // 16) ** 2),
        nn.Unflatten(1, (512, size // 16, size // 16)),
        nn.BatchNorm2d(512),
        *up(512, 256),
        *up(256, 128),
        *up(128, 64),
        *up(64, 64),
        nn.Conv2d(64, 3, 3, 1, 1),
        nn.Tanh(),
    )


class FromZeroToOne(nn.Module):
    def forward(self, shares):
        return 2 * shares - 1


class Textured(nn.Module):
    """Adds the texture of the given noise, from the numbers after the first ``skip``."""

    def __init__(self, channels, noise, skip):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(channels, 1, 1))
        self.noise, self.skip = noise, skip

    def forward(self, maps):
        height, width = maps.shape[2:]
        numbers = uniform(self.noise, TEXTURE, self.skip + height * width)[:, self.skip :]
        texture = (numbers.float() - 0.5) * 12**0.5
        return maps + self.strength * texture.view(-1, 1, height, width)


class Levelled(nn.Module):
    """Sets the contrast, brightness and colour cast of each image by the numbers of its noise."""

    def __init__(self, noise, levels):
        super().__init__()
        self.numbers = levels * (uniform(noise, LEVELS, 5).float() - 0.5) * 12**0.5

    def forward(self, features):
        images = []
        for image, (contrast, brightness, *casts) in zip(features, self.numbers.tolist(), strict=True):
            for channel, cast in zip(image, casts, strict=True):
                images.append(channel * math.exp(0.4 * contrast) + 0.6 * brightness + 0.2 * cast)
        return torch.stack(images).view_as(features)


def reference_decoder(size, noise, widths=(128, 128, 64, 32, 32), levels=1.0):
    """The decoder, with upsampling and convolution apart."""
    base = side = size // 2 ** (len(widths) - 1)
    layers, skip = [nn.BatchNorm2d(widths[0])], 0
    for before, after in pairwise(widths):
        side, skip, used = 2 * side, skip + (2 * side) ** 2, skip
        conv = nn.Conv2d(before, after, 3, 1, 1, bias=False)
        textured = Textured(after, noise, used)
        layers += [nn.UpsamplingNearest2d(scale_factor=2), conv, textured, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    first = [nn.Linear(20, widths[0] * base**2), nn.Unflatten(1, (widths[0], base, base))]
    last = [nn.Conv2d(widths[-1], 3, 3, 1, 1), Levelled(noise, levels), nn.Sigmoid(), FromZeroToOne()]
    return nn.Sequential(*first, *layers, *last)


@pytest.mark.parametrize(
    ('kind', 'reference', 'settings'),
    [
        (UpsampleGenerator, reference_upsample, dict()),
        (DCGANGenerator, reference_dcgan, dict()),
        (DecoderGenerator, reference_decoder, dict()),
        (DecoderGenerator, partial(reference_decoder, widths=(128, 128, 64, 32)), dict(upsamplings=3)),
        (DecoderGenerator, partial(reference_decoder, levels=0), dict(levels=0)),
        (DecoderGenerator, partial(reference_decoder, widths=(16, 16)), dict(upsamplings=1, width=4)),
        (DecoderGenerator, partial(reference_decoder, widths=(8, 8, 4, 2, 2, 2)), dict(upsamplings=5, width=2)),
    ],
)
def test_architectures(kind, reference, settings):
    torch.manual_seed(0)
    noise = noise_of(4, 20)
    generator, expected = kind(noise_dim=20, image_size=32, **settings), reference(32, noise)
    expected.load_state_dict(dict(zip(expected.state_dict(), generator.state_dict().values(), strict=True)))
    torch.testing.assert_close(generator(noise), expected(noise), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generator.eval()(noise), expected.eval()(noise), rtol=1e-4, atol=1e-5)


def test_random_images_are_the_noise():
    generator = RandomImageGenerator(image_size=(2, 3), channels=5)
    noise = noise_of(4, 30)
    assert torch.equal(generator(noise), noise.view(4, 5, 2, 3))
    assert not list(generator.parameters())
    with pytest.raises(DistillError, match=r'takes noise of shape \[N, 30\]'):
        generator(noise_of(4, 31))


def test_upsample_images_are_standardised():
    torch.manual_seed(0)
    images = UpsampleGenerator(noise_dim=10, image_size=32)(noise_of(32, 10))
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert images.std(dim=(0, 2, 3)).sub(1).abs().max() < 1e-2


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_decoder_images_are_viewable(dtype):
    """From black to white in the teacher's space, in fp32 also under autocast."""
    torch.manual_seed(0)
    decoder = DecoderGenerator(noise_dim=6, image_size=16, width=4)
    mean, std = torch.tensor([120.0, 110.0, 100.0]).double(), torch.tensor([60.0, 55.0, 50.0]).double()
    state = set(decoder.state_dict())
    decoder.bind_pixels(PixelSpace(mean, std, True))
    assert set(decoder.state_dict()) == state
    assert not {'low', 'high'} & state
    with torch.no_grad():
        decoder.to_image.weight.mul_(100)
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            images = decoder(noise_of(8, 6))
    assert images.dtype == torch.float32
    low, high = (((value - mean) / std).float() for value in (0, 255))
    torch.testing.assert_close(images.amin((0, 2, 3)), low, rtol=0, atol=1e-3)
    torch.testing.assert_close(images.amax((0, 2, 3)), high, rtol=0, atol=1e-3)
    assert (images >= low.view(-1, 1, 1)).all()
    assert (images <= high.view(-1, 1, 1)).all()


@pytest.mark.parametrize('key', ['width', 'upsamplings', 'noise_dim', 'channels'])
def test_bad_settings_of_a_decoder_are_named(key):
    with pytest.raises(DistillError, match=f'model.generator.{key} must be a whole number, 1 or more, but found 0'):
        DecoderGenerator(**dict(noise_dim=6, image_size=8) | {key: 0})


@pytest.mark.parametrize('levels', [-0.5, math.nan, math.inf])
def test_bad_levels_of_a_decoder_are_named(levels):
    with pytest.raises(DistillError, match=f'model.generator.levels must be 0 or more, but found {levels}'):
        DecoderGenerator(noise_dim=6, image_size=8, levels=levels)


def test_a_decoder_refuses_a_teacher_of_other_channels():
    space = PixelSpace(torch.zeros(3).double(), torch.ones(3).double(), False)
    with pytest.raises(DistillError, match=r'set model.generator.channels=3'):
        DecoderGenerator(noise_dim=6, image_size=8, channels=1).bind_pixels(space)


@pytest.mark.parametrize('kind', KINDS)
def test_a_generator_begins_again_with_other_weights_of_the_same_distribution(kind):
    torch.manual_seed(0)
    generator = kind(noise_dim=6, image_size=16, width=32)
    first = copy.deepcopy(generator.state_dict())
    optim = torch.optim.SGD(generator.parameters(), lr=10)
    generator(noise_of(8, 6)).square().mean().backward()
    optim.step()
    generator.reset_parameters()
    second = generator.state_dict()
    assert not torch.equal(first['project.weight'], second['project.weight'])
    for key, value in first.items():
        if value.is_floating_point():  # others count batches
            torch.testing.assert_close(second[key].std(), value.std(), rtol=0.3, atol=0.1, equal_nan=True)
        else:
            assert not second[key]


def test_texture_belongs_to_the_noise():
    torch.manual_seed(0)
    decoder, noise = DecoderGenerator(noise_dim=6, image_size=16, width=4).eval(), noise_of(4, 6)
    images = decoder(noise)
    assert torch.equal(decoder(noise), images)
    torch.testing.assert_close(decoder(noise[2:]), images[2:])
    with torch.no_grad():
        for stage in decoder.stages:
            stage.texture.strength.zero_()
    assert (decoder(noise) - images).abs().max() > 1e-3


def test_images_of_a_decoder_differ_in_brightness_contrast_and_colour():
    """As much as the constants say, where the sigmoid is undone."""
    torch.manual_seed(0)
    noise = noise_of(512, 6)
    flat, levelled = (DecoderGenerator(noise_dim=6, image_size=16, width=4, levels=levels).eval() for levels in (0, 1))
    levelled.load_state_dict(flat.state_dict())
    with torch.no_grad():
        before, after = ((decoder(noise).double() / 2 + 0.5).logit() for decoder in (flat, levelled))
    changes = after.mean((2, 3)) - before.mean((2, 3)) * (after.std((2, 3)) / before.std((2, 3)))
    gains = (after.std((2, 3)) / before.std((2, 3))).log()
    torch.testing.assert_close(gains[:, 0], gains[:, 2], rtol=0, atol=1e-4)  # one contrast for all channels
    assert gains[:, 0].std().item() == pytest.approx(0.4, rel=0.1)
    assert changes.mean(1).var().item() == pytest.approx(0.6**2 + 0.2**2 / 3, rel=0.1)
    assert changes.var(1).mean().item() == pytest.approx(0.2**2, rel=0.1)


def test_dcgan_initialisation_and_range():
    torch.manual_seed(0)
    generator = DCGANGenerator(noise_dim=64, image_size=64, output_scale=2.5)
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
    with torch.no_grad():
        generator.decoder[-2].weight.mul_(1000)
        images = generator(noise_of(8, 64))
    assert images.abs().max().item() == pytest.approx(2.5, rel=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_wrong_noise_is_named(kind):
    generator = kind(noise_dim=6, image_size=16, width=8)
    with pytest.raises(DistillError, match=r'\[N, 6\] \(model.generator.noise_dim\).*\[2, 7\] \(train_dataloader'):
        generator(noise_of(2, 7))


@pytest.mark.parametrize(
    ('arguments', 'key'),
    [
        (dict(noise_dim=0, image_size=8), 'noise_dim'),
        (dict(noise_dim=4, image_size=(8, 8, 8)), 'image_size'),
        (dict(noise_dim=4, image_size=-8), 'image_size'),
        (dict(noise_dim=4, image_size=8, channels=0), 'channels'),
    ],
)
def test_bad_arguments_are_named(arguments, key):
    with pytest.raises(DistillError, match=f'model.generator.{key} must be a .*whole number.*but found'):
        UpsampleGenerator(**arguments)
