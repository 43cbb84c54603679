"""From one model's normalised pixels to another's, and to viewable colours."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdfad.utils import DistillError
from mmdfad.utils.compat import reverses_channels


@dataclass(frozen=True)
class PixelSpace:
    """How a data preprocessor normalises a loaded image in [0, 255].

    Attributes:
        mean (Tensor): Mean of each channel [C], or [1] for all, in units of 0..255, after the channel flip. float64.
        std (Tensor): Standard deviation, likewise.
        flips (bool): Whether the preprocessor reverses the order of the three colour channels.
    """

    mean: Tensor
    std: Tensor
    flips: bool

    @classmethod
    def of(cls, model: nn.Module) -> 'PixelSpace':
        """Read the pixel space of a model's own data preprocessor.

        Args:
            model (nn.Module): An OpenMMLab model.
        """
        preprocessor = getattr(model, 'data_preprocessor', None)
        mean = getattr(preprocessor, 'mean', torch.zeros(1))
        std = getattr(preprocessor, 'std', torch.ones(1))
        flips = reverses_channels(preprocessor)
        return cls(mean.detach().cpu().double().flatten(), std.detach().cpu().double().flatten(), flips)

    def to_rgb(self, images: Tensor) -> Tensor:
        """Undo the normalisation.

        If the preprocessor keeps the loaded channel order, the images are taken to be RGB.

        Args:
            images (Tensor): Normalised images [N, C, H, W].

        Returns:
            Tensor: uint8 images [N, C, H, W] in [0, 255].
        """
        mean, std = (v.to(images.device, torch.float32).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images.float() * std + mean).round().clamp(0, 255).to(torch.uint8)

    def from_rgb(self, images: Tensor) -> Tensor:
        """Normalise colours: the inverse of :meth:`to_rgb`, differentiable and without rounding.

        Args:
            images (Tensor): Images [N, C, H, W] in [0, 1], three channels in the order RGB.

        Returns:
            Tensor: Normalised images [N, C, H, W].
        """
        low, high = self.bounds(images.shape[1])
        return torch.lerp(low.to(images), high.to(images), images)

    def bounds(self, channels: int) -> tuple[Tensor, Tensor]:
        """The normalised values of 0 and 255, between which all viewable pixels are.

        Args:
            channels (int): Channels of the images.

        Returns:
            tuple[Tensor, Tensor]: Least and largest values [C, 1, 1], fp32.

        Raises:
            DistillError: If this is the space of images with other channels.
        """
        found = max(self.mean.numel(), self.std.numel())
        if found not in (1, channels):
            raise DistillError(
                f'model.generator makes images of {channels} channel(s), but the mean and std of the data_preprocessor '
                f'of model.teacher are for {found}; set model.generator.channels={found}'
            )
        low, high = ((value - self.mean) / self.std for value in (0, 255))
        return tuple(v.float().expand(channels).reshape(-1, 1, 1).clone() for v in (low, high))

    def equals(self, other: 'PixelSpace') -> bool:
        """Whether the two spaces are the same, for any image."""
        return self.flips == other.flips and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in ((self.mean, other.mean), (self.std, other.std))
        )


class PixelMap(nn.Module):
    """Maps the teacher's normalised images to the student's, exactly and differentiably.

    If the spaces are the same, the pixels do not change. If the sizes are the same, there is no resizing. Its buffers
    are not in the state dict.

    Args:
        source (PixelSpace): The space of the input.
        target (PixelSpace): The space of the output.
        size (tuple[int, int], optional): Height and width of the output. Defaults to those of the input.
    """

    def __init__(self, source: PixelSpace, target: PixelSpace, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.size = size
        self.identity = source.equals(target)
        self.flip = source.flips != target.flips
        if self.identity:
            return
        # x * std_s + mean_s is the loaded image, perhaps flipped; (... - mean_t) / std_t is the target.
        mean, std = (self._channels_of_target(v) for v in (source.mean, source.std))
        sizes = {v.numel() for v in (mean, std, target.mean, target.std)} - {1}
        if len(sizes) > 1:
            raise DistillError(
                f'teacher and student take images of different channel counts ({sorted(sizes)}, by the mean of their '
                'data_preprocessor); choose a student that takes the images of model.teacher'
            )
        scale = std / target.std
        shift = (mean - target.mean) / target.std
        self.register_buffer('scale', scale.float().view(-1, 1, 1), persistent=False)
        self.register_buffer('shift', shift.float().view(-1, 1, 1), persistent=False)

    def _channels_of_target(self, values: Tensor) -> Tensor:
        return values.flip(0) if self.flip else values

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in the source space to images [N, C, *size] in the target space."""
        if self.size is not None:
            images = resize_images(images, self.size)
        if self.identity:
            return images
        if self.flip and images.shape[1] == 3:
            images = images.flip(1)
        return images * self.scale + self.shift


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images [N, C, H, W] bilinearly, with antialiasing if they shrink. Images of that size do not change."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    shrinks = any(new < old for new, old in zip(size, images.shape[2:], strict=True))
    return F.interpolate(images, size, mode='bilinear', align_corners=False, antialias=shrinks)


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a plain model takes.

    Args:
        model (nn.Module): An OpenMMLab model.

    Returns:
        int: As many as the mean of its data preprocessor has. If the mean is a single number or absent, as many as the
        model's first convolution takes.
    """
    channels = PixelSpace.of(model).mean.numel()
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return channels if channels > 1 or first is None else first.in_channels
