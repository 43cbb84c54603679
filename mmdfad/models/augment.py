"""What keeps a student from seeing the same image twice."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdfad.registry import MODELS

__all__ = ['RandomFlipCrop']


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
