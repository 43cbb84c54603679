"""A decoder whose structure favours images that look natural."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmdfad.models.chance import LEVELS, TEXTURE, uniform
from mmdfad.models.pixels import PixelSpace
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError, require_positive

from .base import Generator
from .upsample import UpsampledConv2d

# Strength of the texture at first, where the maps have a standard deviation near 1.
TEXTURE_STRENGTH = 0.1
# Standard deviations of an image's contrast (its logarithm), its brightness and its colour cast, in units of the
# sigmoid's input. Photographs have about as much.
CONTRAST, BRIGHTNESS, CAST = 0.4, 0.6, 0.2


class Texture(nn.Module):
    """Adds white noise to maps, times a strength of each channel that is learned (StyleGAN, arXiv 1812.04948)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.empty(channels, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.strength, TEXTURE_STRENGTH)

    def forward(self, maps: Tensor, noise: Tensor) -> Tensor:
        """Maps [N, C, H, W] and white noise [N, 1, H, W] to maps [N, C, H, W]."""
        return maps + self.strength * noise.type_as(maps)


class TexturedStage(nn.Module):
    """Maps of twice the size: x2 and Conv3, texture, BN, LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = UpsampledConv2d(in_channels, out_channels, bias=False)
        self.texture = Texture(out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, maps: Tensor, noise: Tensor) -> Tensor:
        """Maps [N, in, H, W] and white noise [N, 1, 2H, 2W] to maps [N, out, 2H, 2W]."""
        return self.activation(self.norm(self.texture(self.conv(maps), noise)))


@MODELS.register_module()
class DecoderGenerator(Generator):
    """A few maps that are upsampled many times, for images that nothing but priors ask for.

    Linear, BN, a :class:`TexturedStage` for each upsampling, Conv3, sigmoid. The structure itself is an image prior
    (Deep Image Prior, arXiv 1711.10925): large shapes are easy to make, and single pixels are not. So a teacher's
    batch norm statistics, which say little about where things are, lead to images with a layout. Noise inside gives
    them the fine texture that upsampled maps lack.

    By themselves, the images of a decoder differ too little in brightness and contrast: batch norm statistics do not
    say how much of a variance is between images. So each image gets a contrast, a brightness and a colour cast of its
    own, before the sigmoid. The decoder learns around them: statistics are those of the images with their levels.

    Texture and levels belong to the noise vector: equal vectors make equal images.

    The sigmoid covers the viewable pixels of the teacher's space, from black to white; [-1, 1] until that is known. It
    is computed in fp32, also where autocast computes the rest in bf16.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        width (int): The first two maps have four times as many channels; each further one has half of those before it,
            down to ``width``. Defaults to 32.
        upsamplings (int): Times that the maps are doubled in size. Images of 32x32 are made with 3. Defaults to 4.
        levels (float): How much images differ in contrast, brightness and colour cast. 1 stands for as much as
            photographs do, and 0 for nothing. Defaults to 1.0.

    Raises:
        DistillError: If a setting is out of its range.
    """

    takes_chance = True

    def __init__(
        self,
        noise_dim: int,
        image_size: int | tuple[int, int],
        channels: int = 3,
        width: int = 32,
        upsamplings: int = 4,
        levels: float = 1.0,
    ) -> None:
        require_positive('model.generator.{}', width=width, upsamplings=upsamplings)
        if not 0 <= levels < math.inf:
            raise DistillError(f'model.generator.levels must be 0 or more, but found {levels!r}')
        super().__init__(noise_dim, image_size, channels, upsampling=2**upsamplings)
        widths = [4 * width] + [max(4 * width >> i, width) for i in range(upsamplings)]
        self.first_width = widths[0]
        self.levels = levels
        self.project = nn.Linear(noise_dim, widths[0] * self.base_size[0] * self.base_size[1])
        self.first_norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(TexturedStage(before, after) for before, after in pairwise(widths))
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)
        for name, value in dict(low=-1.0, high=1.0).items():
            self.register_buffer(name, torch.full((channels, 1, 1), value), persistent=False)

    def bind_pixels(self, space: PixelSpace) -> None:
        self.low, self.high = (bound.to(self.low) for bound in space.bounds(self.channels))

    def synthesize(self, noise: Tensor) -> Tensor:
        maps = self.first_norm(self._base_map(self.project(noise), self.first_width))
        for stage, texture in zip(self.stages, self._textures(noise), strict=True):
            maps = stage(maps, texture)
        features = self._set_levels(self.to_image(maps).type_as(self.low), noise)
        return torch.lerp(self.low, self.high, features.sigmoid())

    def _set_levels(self, features: Tensor, noise: Tensor) -> Tensor:
        """Features [N, C, H, W] with a contrast, a brightness and a colour cast for each image."""
        numbers = self.levels * _standardised(uniform(noise, LEVELS, 2 + features.shape[1])).type_as(features)
        contrast, brightness, cast = numbers[..., None, None].split([1, 1, features.shape[1]], dim=1)
        return features * (CONTRAST * contrast).exp() + BRIGHTNESS * brightness + CAST * cast

    def _textures(self, noise: Tensor) -> list[Tensor]:
        """White noise [N, 1, h, w] of variance 1 for each stage. The bits of the noise vectors decide it."""
        sizes = [[side << (i + 1) for side in self.base_size] for i in range(len(self.stages))]
        numbers = uniform(noise, TEXTURE, sum(map(math.prod, sizes)))
        numbers = _standardised(numbers).to(self.low)
        parts = numbers.split([math.prod(size) for size in sizes], dim=1)
        return [part.view(-1, 1, *size) for part, size in zip(parts, sizes, strict=True)]


def _standardised(numbers: Tensor) -> Tensor:
    """Uniform numbers from [0, 1), with mean 0 and variance 1."""
    return (2 * numbers - 1) * math.sqrt(3)


def upsamplings(image_size: tuple[int, int]) -> int:
    """Upsamplings of a decoder that leave a first map of about 4 to 7 pixels."""
    return max(1, int(math.log2(min(image_size) / 4) + 0.25))
