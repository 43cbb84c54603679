"""What generators share whose images are drawn, not learned."""

import torch
from torch import Tensor

from mmdfad.models.chance import COLOURS, uniform
from mmdfad.models.pixels import PixelSpace

from .base import Generator


class ImageSource(Generator):
    """Images in viewable colours, each a function of its noise vector alone. It learns nothing.

    Subclasses implement :meth:`draw`. Contrast, brightness and colour of each image are changed at random. Until the
    teacher's pixel space is known, images are in [-1, 1].

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
    """

    def __init__(self, noise_dim: int, image_size: int | tuple[int, int], channels: int = 3) -> None:
        super().__init__(noise_dim, image_size, channels)
        half = torch.full((1,), 127.5, dtype=torch.double)
        self.space = PixelSpace(half, half, flips=False)

    def bind_pixels(self, space: PixelSpace) -> None:
        space.bounds(self.channels)  # refuses other channels
        self.space = space

    def draw(self, noise: Tensor) -> Tensor:
        """Noise [N, noise_dim] to images [N, C, H, W] in [0, 1], fp32."""
        raise NotImplementedError

    @torch.compiler.disable
    @torch.no_grad()
    def synthesize(self, noise: Tensor) -> Tensor:
        return self.space.from_rgb(change_colours(self.draw(noise), noise)).type_as(noise)


def change_colours(images: Tensor, noise: Tensor) -> Tensor:
    """Change contrast (by .5 to 1.4), brightness (by up to .2) and the brightness of each channel (by up to .075).

    Args:
        images (Tensor): Images [N, C, H, W] in [0, 1].
        noise (Tensor): Noise [N, noise_dim], which decides how.

    Returns:
        Tensor: Images [N, C, H, W] in [0, 1].
    """
    draws = uniform(noise, COLOURS, 2 + images.shape[1]).type_as(images)[..., None, None]
    contrast, brightness, colour = draws[:, :1], draws[:, 1:2], draws[:, 2:]
    mean = images.mean((1, 2, 3), keepdim=True)
    shift = 0.4 * (brightness - 0.5) + 0.15 * (colour - 0.5)
    return ((images - mean) * (0.5 + 0.9 * contrast) + mean + shift).clamp(0, 1)
