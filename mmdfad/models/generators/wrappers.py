"""Generators around generators: what a student sees beside, or in place of, the newest images."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.dist import get_rank, get_world_size
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmdfad.models.chance import BOXES, FLIPS, SHIFTS, uniform
from mmdfad.models.parts import build_part
from mmdfad.models.pixels import PixelSpace
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError, require_positive

from .base import Generator
from .memory import ImageMemory


class GeneratorWrapper(Generator):
    """Changes how another generator samples or learns. By itself it changes nothing.

    Args:
        generator (dict | Generator): The generator inside.
    """

    def __init__(self, generator: dict | Generator) -> None:
        inner = build_part(generator, 'model.generator.generator', Generator)
        super().__init__(inner.noise_dim, inner.image_size, inner.channels)
        self.generator = inner

    @property
    def learner(self) -> nn.Module:
        """nn.Module: What the optimizer updates, inside all wrappers."""
        return self.generator.learner

    @property
    def steps_per_update(self) -> int:
        return self.generator.steps_per_update

    def bind_pixels(self, space: PixelSpace) -> None:
        self.generator.bind_pixels(space)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def sample(self, noise: Tensor) -> Tensor:
        return self.generator.sample(noise)

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        self.generator.update(noise, loss, optim)


@MODELS.register_module()
class AugmentedGenerator(GeneratorWrapper):
    """Flips and shifts the images of the imitation phase, each in its own way, and puts boxes of others into them.

    Args:
        generator (dict | Generator): The generator inside.
        flip (float): Probability of a horizontal flip. Defaults to 0.5.
        shift (int): Largest shift in pixels, in each direction; the border is reflected. Defaults to 4.
        cut (float): Probability of a box of another image. With more than 0, the generator inside makes twice as many
            images. Defaults to 0.0.

    Raises:
        DistillError: If a setting is out of its range.
    """

    def __init__(self, generator: dict | Generator, flip: float = 0.5, shift: int = 4, cut: float = 0.0) -> None:
        super().__init__(generator)
        require_augmentation(flip, shift, self.image_size)
        _require_share('cut', cut)
        self.flip = flip
        self.shift = shift
        self.cut = cut

    def sample(self, noise: Tensor) -> Tensor:
        images = self._draw(noise)
        if not self.cut:
            return images
        # Of noise that is as random as the other, and belongs to the same image.
        return paste_boxes(images, self._draw(noise.flip(1)), _noise_for(images, noise), self.cut)

    def _draw(self, noise: Tensor) -> Tensor:
        images = self.generator.sample(noise)
        return flip_and_shift(images, _noise_for(images, noise), self.flip, self.shift)


@MODELS.register_module()
class ReplayGenerator(GeneratorWrapper):
    """Adds images of earlier rounds to the batches of the imitation phase.

    The generator moves on, and a student that follows it forgets (MB-DFKD, arXiv 2108.05698). Images of each generation
    step go into a memory.

    Args:
        generator (dict | Generator): The generator inside.
        capacity (int): Images in the memory.
        replayed (int): Images that each imitation step adds on all ranks together, once the memory holds that many.
        push (int): Images of each generation step that are kept. Defaults to 8.
    """

    def __init__(self, generator: dict | Generator, capacity: int, replayed: int, push: int = 8) -> None:
        super().__init__(generator)
        require_positive('model.generator.{}', capacity=capacity, replayed=replayed, push=push)
        if replayed > capacity:
            raise DistillError(
                f'model.generator.replayed must be at most capacity, but found {replayed} of a memory of {capacity}'
            )
        self.replayed = replayed
        self.push = push
        self.memory = ImageMemory(capacity, self.channels, self.image_size)

    def sample(self, noise: Tensor) -> Tensor:
        images = self.generator.sample(noise)
        if len(self.memory) < self.replayed:
            return images
        replayed = self.memory.draw(noise, len(range(get_rank(), self.replayed, get_world_size())))
        return torch.cat([images.type_as(replayed), replayed])  # autocast may have made the new ones bf16

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        made: list[Tensor] = []

        def watched_loss(images: Tensor, *own_noise: Tensor) -> Tensor:
            made[:] = [images]
            return loss(images, *own_noise)

        self.generator.update(noise, watched_loss, optim)
        self.memory.push(made[0], self.push)


@MODELS.register_module()
class EMAGenerator(GeneratorWrapper):
    """Lets the student learn from a slow copy of the generator, too (MAD, arXiv 2209.10359).

    An update makes the weights and the batch norm statistics of the copy an exponential moving average. In the
    imitation phase the first part of the noise goes through the generator and the rest through the copy.

    Args:
        generator (dict | Generator): The generator inside.
        decay (float): Share of the old average that an update keeps. Defaults to 0.95.
        share (float): Share of each batch that comes from the copy. Defaults to 0.5.
    """

    def __init__(self, generator: dict | Generator, decay: float = 0.95, share: float = 0.5) -> None:
        super().__init__(generator)
        for key, value in dict(decay=decay, share=share).items():
            _require_share(key, value)
        if not isinstance(self.learner, Generator):
            raise DistillError(
                'EMAGenerator averages one generator, but has a MixtureGenerator inside; put the EMAGenerator into '
                'model.generator.generators, around the ones to average'
            )
        self.decay = decay
        self.share = share
        # Of what learns only: an average of a memory inside would blend its images.
        self.average = copy.deepcopy(self.learner).requires_grad_(False)

    def bind_pixels(self, space: PixelSpace) -> None:
        super().bind_pixels(space)
        self.average = copy.deepcopy(self.learner).requires_grad_(False)

    def sample(self, noise: Tensor) -> Tensor:
        slow = round(self.share * len(noise))
        parts = (self.generator, noise[: len(noise) - slow]), (self.average, noise[len(noise) - slow :])
        return torch.cat([generator.sample(part) for generator, part in parts if len(part)])

    @torch.no_grad()
    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        with torch.enable_grad():
            self.generator.update(noise, loss, optim)
        for average, own in zip(self.average.state_dict().values(), self.learner.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(own, 1 - self.decay)
            else:
                average.copy_(own)


def require_augmentation(flip: float, shift: int, image_size: tuple[int, int]) -> None:
    """Check settings of :func:`flip_and_shift`.

    Raises:
        DistillError: If one is out of its range.
    """
    _require_share('flip', flip)
    if not isinstance(shift, int) or not 0 <= shift < min(image_size):
        raise DistillError(
            f'model.generator.shift must be a whole number from 0 to {min(image_size) - 1}, one less than the smaller '
            f'side of the images, but found {shift!r}'
        )


def _require_share(key: str, value: float) -> None:
    """Check a probability or a share."""
    if not 0 <= value <= 1:
        raise DistillError(f'model.generator.{key} must be between 0 and 1, but found {value!r}')


def _noise_for(images: Tensor, noise: Tensor) -> Tensor:
    """The noise of each image. Images that a wrapper inside has added take that of the first ones."""
    return noise.repeat(-(-len(images) // len(noise)), 1)[: len(images)]


def flip_and_shift(images: Tensor, noise: Tensor, flip: float, shift: int, draw: int = 0) -> Tensor:
    """Flip and shift images, differentiably.

    Args:
        images (Tensor): Images [N, C, H, W].
        noise (Tensor): Noise [N, noise_dim], which decides how.
        flip (float): Probability of a horizontal flip.
        shift (int): Largest shift in pixels, in each direction; the border is reflected.
        draw (int): Other numbers make other flips and shifts of the same noise. Defaults to 0.

    Returns:
        Tensor: Images [N, C, H, W].
    """
    height, width = images.shape[2:]
    flipped = uniform(noise, FLIPS, draw + 1)[:, draw].view(-1, 1, 1, 1) < flip
    images = torch.where(flipped, images.flip(3), images)
    if not shift:
        return images
    padded = F.pad(images, [shift] * 4, mode='reflect')
    offsets = (uniform(noise, SHIFTS, 2 * draw + 2)[:, -2:] * (2 * shift + 1)).long().tolist()
    crops = [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(crops)


def paste_boxes(images: Tensor, others: Tensor, noise: Tensor, share: float) -> Tensor:
    """Put a box of another image into some images, at the same place (CutMix, arXiv 1905.04899).

    The share of a box's area is uniform, and so is its centre. What lies outside of the image is lost.

    Args:
        images (Tensor): Images [N, C, H, W].
        others (Tensor): Images [N, C, H, W] that boxes are taken from.
        noise (Tensor): Noise [N, noise_dim], which decides on the boxes.
        share (float): Probability that an image gets a box.

    Returns:
        Tensor: Images [N, C, H, W].
    """
    chosen, area, y, x = uniform(noise, BOXES, 4).T[..., None, None, None]
    rows, columns = (
        (torch.arange(side, device=images.device, dtype=area.dtype) + 0.5) / side for side in images.shape[2:]
    )
    half = area.sqrt() / 2
    inside = ((rows[:, None] - y).abs() < half) & ((columns - x).abs() < half) & (chosen < share)
    return torch.where(inside, others, images)
