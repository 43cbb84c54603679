"""Dilated convolutions in less time."""

from collections.abc import Sequence
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def optimize_dilated_convs(model: nn.Module, only_in_training: bool = False) -> None:
    """Compute dilated convolutions in less time, with the same result up to rounding.

    Taps that see only padding are left out. On small images, the outer taps of wide dilations lie beyond the edges. In
    DeepLab's pyramid at 128x128 this holds for the dilations 24 and 36: eight ninths of their products are with zeros.

    Depthwise dilated convolutions that need gradients on a CPU are computed without dilation, on grids of pixels that
    are the dilation apart. torch's backward pass takes up to fifty times longer with a dilation.

    Args:
        model (nn.Module): The model; changed in place, but not in its weights.
        only_in_training (bool): Convolve as usual in eval mode. Defaults to False.
    """

    def convolve(module: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve_dilated(module, images, weight, bias, only_in_training)

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_dilated(module):
            module._conv_forward = MethodType(convolve, module)


def _is_dilated(module: nn.Conv2d) -> bool:
    plain = type(module)._conv_forward is nn.Conv2d._conv_forward
    zeros = module.padding_mode == 'zeros' and not isinstance(module.padding, str)
    return plain and zeros and max(module.dilation) > 1 and max(module.stride) == 1


def _convolve_dilated(
    module: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None, only_in_training: bool
) -> Tensor:
    """Replace ``Conv2d._conv_forward``."""
    padding = list(module.padding)
    if module.training or not only_in_training:
        for axis, dilation in enumerate(module.dilation):
            size, taps = images.shape[2 + axis], weight.shape[2 + axis]
            useless = _useless_taps(size, taps, dilation, padding[axis])
            if useless:
                weight = weight.narrow(2 + axis, useless, taps - 2 * useless)
                padding[axis] -= useless * dilation
        if _learns_slowly(module, images, weight, padding):
            return _convolve_grids(images, weight, bias, module.dilation)
    return F.conv2d(images, weight, bias, module.stride, padding, module.dilation, module.groups)


def _learns_slowly(module: nn.Conv2d, images: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether torch's backward pass would be slow here, so that :func:`_convolve_grids` is better."""
    depthwise = module.groups == module.in_channels > 1
    keeps_size = all(2 * p == d * (k - 1) for p, d, k in zip(padding, module.dilation, weight.shape[2:], strict=True))
    with_gradients = torch.is_grad_enabled() and (images.requires_grad or weight.requires_grad)
    return depthwise and keeps_size and with_gradients and images.device.type == 'cpu'


def _useless_taps(size: int, taps: int, dilation: int, padding: int) -> int:
    """The number of taps at either end that see only padding at stride 1.

    Tap i of output o is at o - padding + i * dilation of the input.
    """
    outputs = size + 2 * padding - dilation * (taps - 1)
    return max(0, min(-((outputs - 1 - padding) // dilation), padding // dilation))


def _convolve_grids(images: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int]) -> Tensor:
    """A depthwise dilated convolution that keeps the size of its maps. Each output sees only one grid of pixels."""
    (_, channels, height, width), (rows, columns) = images.shape, dilation
    images = F.pad(images, (0, -width % columns, 0, -height % rows)).movedim(1, -1)
    grids = images.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).permute(0, 2, 4, 5, 1, 3)
    padding = [taps // 2 for taps in weight.shape[2:]]
    outputs = F.conv2d(grids.flatten(0, 2), weight, bias, padding=padding, groups=channels)
    outputs = outputs.unflatten(0, grids.shape[:3]).permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)
    return outputs.movedim(-1, 1)[:, :, :height, :width]
