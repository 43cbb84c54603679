"""Procedural images: no picture, no learning."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdfad.models.chance import LEAVES, uniform
from mmdfad.registry import MODELS
from mmdfad.utils import require_positive

from .source import ImageSource

# The scene is a square. Lengths in it are in units.
SCENE = 384
# An image shows a part of the scene whose longer side is of at least so many units, or as many as the image has pixels.
CLOSEST = 128
SMALLEST, LARGEST, POWER = 4.0, 150.0, 1.5
COLOURS = 6
# Points that an image is computed at, along its longer side; more than pixels, so that edges are smooth.
POINTS, MOST_POINTS = 256, 2
# Points that are computed at once: as many as the cache of a CPU core holds, or enough to keep an accelerator busy.
CHUNK = dict(cpu=2**17, other=2**23)


class Shapes(NamedTuple):
    """Half of a scene's shapes, in the order in which they are painted.

    Attributes:
        centre (Tensor): Centres (x, y) [N, S, 2] in units.
        along (Tensor): The first axis [N, S, 2], divided by the half extent along it.
        across (Tensor): The second axis, likewise.
        radius (Tensor): Radius [N, S] of a circle around the shape, in units.
        paint (Tensor): Colour, and coefficients of shading and stripes, see :func:`_paint` [N, S, C + 7].
    """

    centre: Tensor
    along: Tensor
    across: Tensor
    radius: Tensor
    paint: Tensor


@MODELS.register_module()
class DeadLeaves(ImageSource):
    """Overlapping discs and boxes of all sizes: images with the edges and spectra of photographs, without any.

    Dead leaves (Lee, Mumford and Huang, IJCV 2001) teach networks more than other procedural images without textures
    do (Baradad et al., arXiv 2106.05963). The number of shapes falls with the power 1.5 of their size. Each has a
    colour of the image's palette, shading, and perhaps stripes. An image shows a part of such a scene, near or far,
    and then contrast, brightness and colours are changed.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        shapes (int): Shapes in the scene. Time grows with them. Defaults to 400.
    """

    def __init__(self, noise_dim: int, image_size: int | tuple[int, int], channels: int = 3, shapes: int = 400) -> None:
        super().__init__(noise_dim, image_size, channels)
        require_positive('model.generator.{}', shapes=shapes)
        self.shapes = shapes
        self.points = min(MOST_POINTS, max(1, round(POINTS / max(self.image_size))))

    def draw(self, noise: Tensor) -> Tensor:
        """Noise [N, noise_dim] to images [N, C, H, W] in [0, 1]."""
        area = self.image_size[0] * self.image_size[1] * self.points**2
        chunk = max(1, CHUNK['cpu' if noise.device.type == 'cpu' else 'other'] // area)
        return torch.cat([self._draw(part) for part in noise.split(chunk)])

    def _draw(self, noise: Tensor) -> Tensor:
        colours = 1 + COLOURS  # of the background and the palette
        count = 3 + colours * self.channels
        half = -(-self.shapes // 2)
        own = 10 + self.channels  # numbers for each shape
        numbers = uniform(noise, LEAVES, count + 2 * half * own)
        view, palette = numbers[:, :3].float(), numbers[:, 3:count].unflatten(1, (colours, self.channels))
        discs, boxes = (_shapes(n.unflatten(1, (half, own)), palette[:, 1:]) for n in numbers[:, count:].chunk(2, 1))
        x, y = self._points_of(view)
        discs, boxes = (_visible(shapes, x, y) for shapes in (discs, boxes))
        covered_by = _cover(discs, boxes, x, y)
        background = F.pad(F.pad(palette[:, :1].float(), (0, 1), value=1.0), (0, 6))  # of brightness 1, without stripes
        images = _paint(torch.cat([background, discs.paint, boxes.paint], dim=1), covered_by, x, y)
        return F.avg_pool2d(images, self.points)

    def _points_of(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates [N, points] of columns and rows, in units, of the part of the scene that is shown."""
        longest = max(self.image_size)
        closest = min(longest, CLOSEST)
        unit = closest * (SCENE / closest) ** view[:, :1] / longest  # of a pixel
        axes = []
        for size, place in zip(reversed(self.image_size), (view[:, 1:2], view[:, 2:]), strict=True):
            points = (torch.arange(size * self.points, device=view.device) + 0.5) / self.points
            axes.append((SCENE - unit * size) * place + unit * points)
        return tuple(axes)


def _shapes(numbers: Tensor, palette: Tensor) -> Shapes:
    """Shapes from uniform numbers [N, S, 10 + C] and a palette [N, 6, C].

    They are computed in fp64: how fp32 rounds sines depends on the place in a batch, and would move edges.
    """
    place, size, angle, aspect, stripe, frequency = numbers[..., :7].split([2, 1, 1, 1, 1, 1], dim=2)
    entry, normal = numbers[..., 7], torch.special.ndtri(numbers[..., 8:].clamp(1e-6, 1 - 1e-6))
    share = (SMALLEST / LARGEST) ** POWER
    radius = SMALLEST * (size * (1 - share) + share) ** (-1 / POWER)
    aspect = 0.3 + aspect
    angle = math.pi * angle
    axis = torch.cat([angle.cos(), angle.sin()], dim=2)
    normal_axis = torch.cat([-angle.sin(), angle.cos()], dim=2)
    along, across, centre = axis / radius, normal_axis / (radius * aspect), SCENE * place
    colour = palette.take_along_dim((entry * COLOURS).long()[..., None], dim=1) + 0.15 * normal[..., 2:]
    # Brightness and phase are linear in x and y: offset, x, y.
    slope = 0.4 * (normal[..., :1] * axis + normal[..., 1:2] * normal_axis) / radius
    wave = 2 * frequency * axis
    linear = [part for v, one in ((slope, 1), (wave, 0)) for part in (one - (v * centre).sum(2, keepdim=True), v)]
    strength = 0.2 * (stripe - 0.5).clamp_min(0)  # every second shape has stripes
    paint = torch.cat([colour, *linear, strength], dim=2)
    reach = (radius * (1 + aspect.square()).sqrt())[..., 0]
    return Shapes(*(v.float() for v in (centre, along, across, reach, paint)))


def _visible(shapes: Shapes, x: Tensor, y: Tensor) -> Shapes:
    """The shapes that may touch the part of the scene with columns x [N, W] and rows y [N, H], in their order.

    Images with fewer of them than others have some more, which lie outside.
    """
    inside = torch.ones_like(shapes.radius, dtype=torch.bool)
    for axis, points in enumerate((x, y)):
        place = shapes.centre[..., axis]
        inside &= (place > points[:, :1] - shapes.radius) & (place < points[:, -1:] + shapes.radius)
    order = inside.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : int(inside.sum(1).max())]
    return Shapes(*(v.take_along_dim(order.view(*order.shape, *[1] * (v.ndim - 2)), dim=1) for v in shapes))


def _cover(discs: Shapes, boxes: Shapes, x: Tensor, y: Tensor) -> Tensor:
    """The number of the last shape over each point [N, H, W]: 0 for none, then the discs, then the boxes."""
    # They are painted in turn, and the largest turn wins: maxima of floats take a tenth of the time of masks.
    turn = torch.zeros(len(x), y.shape[1], x.shape[1], device=x.device)
    u, v = torch.empty_like(turn), torch.empty_like(turn)
    axes = [[_along(axis, shapes, x, y) for axis in (shapes.along, shapes.across)] for shapes in (discs, boxes)]
    for i in range(max(discs.radius.shape[1], boxes.radius.shape[1])):
        for kind, ((ux, uy), (vx, vy)) in enumerate(axes):
            if i >= ux.shape[1]:
                continue
            torch.add(ux[:, i, None, :], uy[:, i, :, None], out=u)
            torch.add(vx[:, i, None, :], vy[:, i, :, None], out=v)
            distance = torch.maximum(u.abs_(), v.abs_(), out=u) if kind else u.square_().addcmul_(v, v)
            covered = torch.lt(distance, 1, out=v)
            torch.maximum(turn, covered.mul_(1 + 2 * i + kind), out=turn)
    last = turn.int() - 1
    return torch.where(last < 0, 0, 1 + last // 2 + last % 2 * discs.radius.shape[1])


def _along(axis: Tensor, shapes: Shapes, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of the distance from the centre along an axis, by columns [N, S, W] and by rows [N, S, H]."""
    return tuple(
        (points[:, None] - shapes.centre[..., i, None]) * axis[..., i, None] for i, points in enumerate((x, y))
    )


def _paint(paint: Tensor, number: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Colours [N, C, H, W] from what each shape is painted with [N, 1 + S, C + 7]."""
    # A colour times a brightness that is linear in x and y, plus a strength times the sine of another such function.
    number = number.long() + paint.shape[1] * torch.arange(len(number), device=number.device).view(-1, 1, 1)
    at_points = paint.flatten(0, 1)[number].movedim(3, 1)  # [N, C + 7, H, W]
    colour, shade, phase, strength = at_points.split([paint.shape[2] - 7, 3, 3, 1], dim=1)
    shade, phase = (v[:, :1] + v[:, 1:2] * x[:, None, None, :] + v[:, 2:] * y[:, None, :, None] for v in (shade, phase))
    return (colour * shade + strength * phase.sin()).clamp(0, 1)
