"""What keeps a student from seeing the same image twice, and shows it more than the generator thinks of.

Each takes images [N, C, H, W] in the teacher's normalised pixel space, and changes each in its own way. Teacher and
student see the same changed image, so that nothing can become wrong about its label.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

__all__ = ['RandomColor', 'RandomFlipCrop', 'RandomZoom']


@MODELS.register_module()
class RandomFlipCrop(nn.Module):
    """Flips and shifts images before student and teacher see them, each its own way.

    Args:
        flip (float): Probability of a horizontal flip. Defaults to 0.5.
        shift (int): Largest shift in pixels, in each direction; the border is reflected. Defaults to 4.
    """

    def __init__(self, flip: float = 0.5, shift: int = 4) -> None:
        super().__init__()
        self.flip = flip
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to images of the same size."""
        count, _, height, width = images.shape
        flipped = torch.rand(count, 1, 1, 1, device=images.device) < self.flip
        images = torch.where(flipped, images.flip(3), images)
        if not self.shift:
            return images
        padded = F.pad(images, [self.shift] * 4, mode='reflect')
        offsets = torch.randint(2 * self.shift + 1, (count, 2)).tolist()
        crops = [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)]
        return torch.stack(crops)


@MODELS.register_module()
class RandomZoom(nn.Module):
    """Shows a random window of each image in the size of the whole.

    What a generator draws finely comes out coarse as well, as things near and far do in real images.

    Args:
        scale (float): Smallest side of a window, as a share of the image's. Defaults to 0.5.
        prob (float): Share of the images that are changed. Defaults to 0.5.
    """

    def __init__(self, scale: float = 0.5, prob: float = 0.5) -> None:
        super().__init__()
        self.prob = prob
        if not 0 < scale <= 1:
            raise DistillError(f'scale of RandomZoom must be in (0, 1], but found {scale}')
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to images of the same size."""
        count, device = len(images), images.device
        size = torch.empty(count, 1, device=device).uniform_(self.scale, 1)
        size = torch.where(torch.rand_like(size) < self.prob, size, 1.0)
        centre = (torch.rand(count, 2, device=device) * 2 - 1) * (1 - size)  # in [-1, 1], with the window inside
        theta = torch.cat([size[:, :, None] * torch.eye(2, device=device), centre[:, :, None]], dim=2)  # [N, 2, 3]
        grid = F.affine_grid(theta.type_as(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode='border', align_corners=False)


@MODELS.register_module()
class RandomColor(nn.Module):
    """Mixes, scales and shifts the channels of each image.

    A generator that is to match the teacher's statistics keeps to a few colours, and a student that has seen only
    these takes real images for something else.

    Args:
        mix (float): Standard deviation of the weights that channels enter each other with. Defaults to 0.3.
        contrast (float): Standard deviation of the logarithm of each image's contrast. Defaults to 0.5.
        brightness (float): Standard deviation of each channel's shift, in units of normalised pixels. Defaults to 0.3.
        prob (float): Share of the images that are changed. Defaults to 0.5.
    """

    def __init__(self, mix: float = 0.3, contrast: float = 0.5, brightness: float = 0.3, prob: float = 0.5) -> None:
        super().__init__()
        self.prob = prob
        self.mix = mix
        self.contrast = contrast
        self.brightness = brightness

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to images of the same size."""
        count, channels = images.shape[:2]
        weight = torch.eye(channels, device=images.device) + self._normal(images, channels, channels) * self.mix
        weight = weight * (self._normal(images, 1, 1) * self.contrast).exp()
        shift = self._normal(images, channels, 1) * self.brightness
        changed = (weight.type_as(images) @ images.flatten(2) + shift).view_as(images)
        return torch.where(torch.rand(count, 1, 1, 1, device=images.device) < self.prob, changed, images)

    @staticmethod
    def _normal(images: Tensor, *shape: int) -> Tensor:
        return torch.randn(len(images), *shape, device=images.device)
