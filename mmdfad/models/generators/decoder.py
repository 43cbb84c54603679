"""A decoder whose structure favours images that look natural."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from mmdfad.models.pixels import PixelSpace
from mmdfad.registry import MODELS
from mmdfad.utils import require_positive

from .base import Generator
from .upsample import UpsampledConv2d


@MODELS.register_module()
class DecoderGenerator(Generator):
    """A few maps that are upsampled many times, for images that nothing but priors ask for.

    Linear, BN, [x2 and Conv3, BN, LeakyReLU] for each upsampling, Conv3, sigmoid. The structure itself is an image
    prior (Deep Image Prior, arXiv 1711.10925): large shapes are easy to make, and single pixels are not. So a teacher's
    batch norm statistics, which say little about where things are, lead to images with a layout.

    The sigmoid covers the viewable pixels of the teacher's space, from black to white; [-1, 1] until that is known. It
    is computed in fp32, also where autocast computes the rest in bf16.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        width (int): The first two maps have four times as many channels; each further one has half of those before it,
            down to ``width``. Defaults to 32.
        upsamplings (int): Times that the maps are doubled in size. Images of 32x32 are made with 3. Defaults to 4.
    """

    def __init__(
        self,
        noise_dim: int,
        image_size: int | tuple[int, int],
        channels: int = 3,
        width: int = 32,
        upsamplings: int = 4,
    ) -> None:
        require_positive('model.generator.{}', width=width, upsamplings=upsamplings)
        super().__init__(noise_dim, image_size, channels, upsampling=2**upsamplings)
        widths = [4 * width] + [max(4 * width >> i, width) for i in range(upsamplings)]
        self.first_width = widths[0]
        self.project = nn.Linear(noise_dim, widths[0] * self.base_size[0] * self.base_size[1])
        stages: list[nn.Module] = [nn.BatchNorm2d(widths[0])]
        for before, after in pairwise(widths):
            stages += [
                UpsampledConv2d(before, after, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.decoder = nn.Sequential(*stages, nn.Conv2d(widths[-1], channels, 3, padding=1))
        for name, value in dict(low=-1.0, high=1.0).items():
            self.register_buffer(name, torch.full((channels, 1, 1), value), persistent=False)

    def bind_pixels(self, space: PixelSpace) -> None:
        self.low, self.high = (bound.to(self.low) for bound in space.bounds(self.channels))

    def synthesize(self, noise: Tensor) -> Tensor:
        features = self.decoder(self._base_map(self.project(noise), self.first_width))
        return torch.lerp(self.low, self.high, features.type_as(self.low).sigmoid())
