"""Whether a teacher's data preprocessor suits the images that it was trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdfad.models.network import Network
from mmdfad.models.pixels import PixelSpace

from .training_pixels import TrainingPixels, read_training_pixels

# Usual settings of data preprocessors: mean and standard deviation in units of 0..255.
USUAL = {
    'ImageNet': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    'pixels in [0, 1]': ((0.0,), (255.0,)),
    'pixels in [-1, 1]': ((127.5,), (127.5,)),
    'pixels in [0, 255]': ((0.0,), (1.0,)),
    'Caffe': ((103.53, 116.28, 123.675), (1.0,)),
    'CIFAR-10': ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
}
# Photographs have a mean of about 115 and a standard deviation of about 65, in units of 0..255.
USUAL_MEAN, USUAL_STD = 115.0, 65.0
# Least standard deviation of a set of images, and the largest one as a share of that of pure black and white.
LEAST_STD, MOST_CONTRAST = 20.0, 0.9
# Means may be so far outside of 0..255: they are estimates.
TOLERANCE = 10.0
# How much bluer than red the mean of photographs may be.
BLUEST = 15.0


@dataclass(frozen=True)
class LoadedPixels:
    """Training pixels in units of 0..255, as they were loaded.

    Attributes:
        mean (Tensor): Mean of each channel [C], in the order that the teacher takes.
        std (Tensor): Standard deviation, likewise.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def by(cls, found: TrainingPixels, mean: Tensor, std: Tensor) -> 'LoadedPixels':
        """What the training pixels were before a preprocessor with that mean and std."""
        return cls(found.mean * std + mean, found.std * std)

    @property
    def plausible(self) -> bool:
        """bool: Whether images can have such statistics."""
        inside = ((self.mean > -TOLERANCE) & (self.mean < 255 + TOLERANCE)).all()
        mean = self.mean.clamp(1, 254)
        black_and_white = (mean * (255 - mean)).sqrt()
        share = MOST_CONTRAST if len(mean) == 3 else 1.0  # drawings and digits are nearly black and white
        return bool(inside and (self.std <= share * black_and_white).all() and self.std.mean() >= LEAST_STD)

    @property
    def distance(self) -> float:
        """float: How far the statistics are from those of photographs."""
        mean = (self.mean - USUAL_MEAN) / USUAL_STD
        return float((mean.square() + 4 * (self.std / USUAL_STD).log().square()).mean())

    def __str__(self) -> str:
        parts = (', '.join(f'{v:.0f}' for v in values) for values in (self.mean, self.std))
        return 'a mean of ({}) and a standard deviation of ({})'.format(*parts)


def check_pixels(teacher: Network, images: Tensor) -> list[str]:
    """Compare a teacher's data preprocessor with its first batch norm.

    Args:
        teacher (Network): The teacher.
        images (Tensor): A few images [N, C, H, W] of the size that it takes. Their values do not matter.

    Returns:
        list[str]: A sentence or two on each mistake. None is found if the teacher has no batch norm behind its first
        convolution.
    """
    found = read_training_pixels(teacher, images)
    return [] if found is None else judge_pixels(found, teacher.pixel_space)


def judge_pixels(found: TrainingPixels, space: PixelSpace) -> list[str]:
    """What is wrong with a pixel space, given what a teacher's first layer knows.

    Args:
        found (TrainingPixels): What it knows.
        space (PixelSpace): The pixel space of its config.
    """
    loaded = LoadedPixels.by(found, space.mean, space.std)
    if not loaded.plausible:
        return [_of_scale(found, space, loaded)]
    if len(loaded.mean) == 3:
        red, blue = (loaded.mean[i].item() for i in ((0, 2) if space.flips else (2, 0)))
        if blue - red > BLUEST:
            return [
                f'if the channel order of its data_preprocessor is right, the teacher was trained on images whose blue '
                f'has a mean of {blue:.0f}, and whose red has {red:.0f}. Most photographs have more red than blue. '
                f'Check to_rgb (now {space.flips}), or bgr_to_rgb, in its config'
            ]
    return []


def _of_scale(found: TrainingPixels, space: PixelSpace, loaded: LoadedPixels) -> str:
    """A mistake of mean and std, with the usual setting that fits best."""
    candidates = {name: LoadedPixels.by(found, *map(torch.tensor, setting)) for name, setting in USUAL.items()}
    name = min(candidates, key=lambda name: candidates[name].distance)
    mean, std = USUAL[name]
    text = (
        f'the data_preprocessor of the teacher has mean={_numbers(space.mean)} and std={_numbers(space.std)}. If these '
        f'are right, its training pixels had {loaded}, on a scale of 0 to 255. No real images have such pixels'
    )
    if candidates[name].plausible:
        text += f'. The usual setting that fits best is mean={list(mean)}, std={list(std)} ({name})'
    return text + '. Check mean and std in its config'


def _numbers(values: Tensor) -> list[float]:
    return [round(v, 3) for v in values.tolist()]
