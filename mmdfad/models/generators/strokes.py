"""Procedural images of lines: no picture, no learning."""

import math

import torch
from torch import Tensor

from mmdfad.models.chance import STROKES, uniform
from mmdfad.registry import MODELS
from mmdfad.utils import require_positive

from .source import ImageSource

# Lengths are in units of the image's shorter side.
LENGTH, RADIUS = (0.4, 2.0), (0.02, 0.07)
# Radians that a stroke turns by at most: steadily, and more and more or less and less.
STEADY, CHANGE = 2 * math.pi, math.pi
SEGMENTS = 16
# Share of the width and height, around the middle, where strokes have their centres.
MIDDLE = 0.7
BLACK = 0.3  # share of images with a black background
# Points of images that are computed at once: as many as the cache of a CPU core holds.
CHUNK = 2**16


@MODELS.register_module()
class Strokes(ImageSource):
    """A few pen strokes on a plain background, as in handwriting, signs and drawings.

    A stroke is an Euler spiral: its curvature changes steadily. So it may be straight, an arc, a loop or an S. It has a
    width and a colour. Nearly one image in three is drawn on black, before colours are changed.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        strokes (int): The most strokes in an image. Defaults to 4.
    """

    def __init__(self, noise_dim: int, image_size: int | tuple[int, int], channels: int = 3, strokes: int = 4) -> None:
        super().__init__(noise_dim, image_size, channels)
        require_positive('model.generator.{}', strokes=strokes)
        self.strokes = strokes

    def draw(self, noise: Tensor) -> Tensor:
        """Noise [N, noise_dim] to images [N, C, H, W] in [0, 1]."""
        chunk = max(1, CHUNK // (self.image_size[0] * self.image_size[1]))
        return torch.cat([self._draw(part) for part in noise.split(chunk)])

    def _draw(self, noise: Tensor) -> Tensor:
        own = 7 + self.channels  # numbers for each stroke
        numbers = uniform(noise, STROKES, 2 + self.channels + self.strokes * own)
        amount, black = numbers[:, :2].split(1, dim=1)
        images = numbers[:, 2 : 2 + self.channels] * (black >= BLACK)
        images = images.float()[..., None, None].repeat(1, 1, *self.image_size)
        strokes = numbers[:, 2 + self.channels :].unflatten(1, (self.strokes, own))
        paths, radius = self._paths(strokes[..., :6]), _between(RADIUS, strokes[..., 6])
        for i in range(self.strokes):
            cover = self._cover(paths[:, i].float(), radius[:, i].float())
            cover = cover * (i <= amount * self.strokes)[..., None]
            images.lerp_(strokes[:, i, 7:].float()[..., None, None], cover[:, None])
        return images

    def _paths(self, numbers: Tensor) -> Tensor:
        """Corners (x, y) [N, S, 17, 2] of strokes from six uniform numbers each [N, S, 6].

        In fp64: how fp32 rounds sines depends on the place in a batch.
        """
        heading, turn, change, length, *place = numbers[..., None].unbind(2)
        along = (torch.arange(SEGMENTS, device=numbers.device) + 0.5) / SEGMENTS
        angle = 2 * math.pi * heading + STEADY * (2 * turn - 1) * along + CHANGE * (2 * change - 1) * along.square()
        step = _between(LENGTH, length) / SEGMENTS
        path = torch.stack([step * angle.cos(), step * angle.sin()], dim=3).cumsum(2)
        path = torch.cat([torch.zeros_like(path[:, :, :1]), path], dim=2)
        side = min(self.image_size)
        size = [n / side for n in reversed(self.image_size)]
        centre = torch.stack([n * (0.5 + MIDDLE * (p - 0.5)) for p, n in zip(place, size, strict=True)], dim=3)
        return path - path.mean(2, keepdim=True) + centre

    def _cover(self, path: Tensor, radius: Tensor) -> Tensor:
        """How much of each pixel [N, H, W] the stroke with corners [N, 17, 2] and a radius [N] covers."""
        side = min(self.image_size)
        y, x = ((torch.arange(n, device=path.device) + 0.5) / side for n in self.image_size)
        nearest = None
        for start, end in zip(path[:, :-1, :, None, None].unbind(1), path[:, 1:, :, None, None].unbind(1), strict=True):
            offset_x, offset_y = x - start[:, 0], y[:, None] - start[:, 1]
            way_x, way_y = (end - start).unbind(1)
            along = (offset_x * way_x + offset_y * way_y) / (way_x.square() + way_y.square())
            along.clamp_(0, 1)
            distance = (offset_x - along * way_x).square() + (offset_y - along * way_y).square()
            nearest = distance if nearest is None else torch.minimum(nearest, distance)
        return ((radius[:, None, None] - nearest.sqrt()) * side + 0.5).clamp(0, 1)


def _between(bounds: tuple[float, float], number: Tensor) -> Tensor:
    """A length between bounds from a uniform number. Each factor between lengths is as likely as any other."""
    low, high = bounds
    return low * (high / low) ** number
