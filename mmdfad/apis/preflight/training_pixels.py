"""What a teacher's first layer tells of the pixels that it was trained on."""

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models.network import Network
from mmdfad.utils.model import evaluating, keeps_statistics

# Correlations of neighbouring pixels that are tried. Photographs have .85 to .98.
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
# Largest relative error of the fitted means and variances. Layers with a larger one tell nothing.
LARGEST_ERROR = 0.5


@dataclass(frozen=True)
class TrainingPixels:
    """Statistics of a teacher's training images, as they came out of its data preprocessor.

    Attributes:
        mean (Tensor): Mean of each channel [C], float64.
        std (Tensor): Standard deviation of each channel [C], over all pixels and images.
        error (float): Relative error of the fit. 0 if the first layer's statistics are just those of such images.
    """

    mean: Tensor
    std: Tensor
    error: float


def read_training_pixels(teacher: Network, images: Tensor) -> TrainingPixels | None:
    """Read the mean and standard deviation of a teacher's training pixels from its first layer.

    A batch norm behind the first convolution knows the mean and the variance of each of its outputs on the training
    images. The mean of an output is linear in the mean pixel. Its variance is linear in the covariance of the colours,
    if all colours have the same spatial correlation; ``correlation ** distance`` is used. There are many more outputs
    than unknowns, so both are found by least squares.

    Args:
        teacher (Network): The teacher.
        images (Tensor): A few images [N, C, H, W] of the size that it takes. Their values do not matter.

    Returns:
        TrainingPixels | None: None if there is no such pair of layers, or its statistics do not fit.
    """
    pair = _first_pair(teacher, images)
    if pair is None:
        return None
    conv, norm = pair
    weight = conv.weight.detach().double().cpu()
    mean, variance = (v.double().cpu() for v in (norm.running_mean, norm.running_var))
    if conv.bias is not None:
        mean = mean - conv.bias.detach().double().cpu()
    scale = (variance + norm.eps).sqrt()
    gains = _gains(conv, images[:1])
    pixel_mean = torch.linalg.lstsq(gains / scale[:, None], mean / scale).solution
    fits = [_fit_covariance(weight, variance, correlation) for correlation in CORRELATIONS]
    error, pixel_variance = min(fits, key=lambda fit: fit[0])
    if not error < LARGEST_ERROR or not (pixel_variance > 0).all():
        return None
    return TrainingPixels(pixel_mean, pixel_variance.sqrt(), error)


def _first_pair(teacher: Network, images: Tensor) -> tuple[nn.Conv2d, _BatchNorm] | None:
    """The convolution that takes the images, and the batch norm that takes what it gives."""
    found: dict[str, Any] = {}

    def on_conv(conv: nn.Conv2d, inputs: tuple, output: Tensor) -> None:
        if 'conv' not in found and conv.groups == 1 and torch.equal(inputs[0], images):
            found.update(conv=conv, output=output)

    def on_norm(norm: _BatchNorm, inputs: tuple) -> None:
        if 'norm' not in found and inputs[0] is found.get('output'):
            found['norm'] = norm

    with ExitStack() as hooks, torch.no_grad(), evaluating(teacher):
        for module in teacher.model.modules():
            if isinstance(module, nn.Conv2d):
                hooks.callback(module.register_forward_hook(on_conv).remove)
            elif keeps_statistics(module):
                hooks.callback(module.register_forward_pre_hook(on_norm).remove)
        teacher.logits(images)
    return (found['conv'], found['norm']) if 'norm' in found else None


def _gains(conv: nn.Conv2d, image: Tensor) -> Tensor:
    """Mean output [O, C] of a convolution without bias for images of 1 in one channel, with its padding."""
    with torch.no_grad():
        constant = torch.eye(conv.in_channels).to(image)[:, :, None, None].expand(-1, -1, *image.shape[2:])
        outputs = conv(constant).double().cpu().mean((2, 3))  # [C, O]
    if conv.bias is not None:
        outputs = outputs - conv.bias.detach().double().cpu()
    return outputs.T


def _fit_covariance(weight: Tensor, variance: Tensor, correlation: float) -> tuple[float, Tensor]:
    """The relative error, and the variances [C] of colours that explain those [O] of a convolution's outputs best."""
    channels, height, width = weight.shape[1:]
    y, x = (v.flatten() for v in torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij'))
    distance = torch.hypot(*((v[:, None] - v).double() for v in (y, x)))
    kernels = weight.flatten(2)  # [O, C, H * W]
    # Part of each output's variance for a covariance of 1 between two colours.
    parts = torch.einsum('oap,pq,obq->oab', kernels, correlation**distance, kernels)
    pairs = list(combinations_with_replacement(range(channels), 2))
    columns = [parts[:, a, b] if a == b else parts[:, a, b] + parts[:, b, a] for a, b in pairs]
    # Outputs that hardly vary are hardly known.
    scale = variance + 0.05 * variance.median()
    design, target = torch.stack(columns, 1) / scale[:, None], variance / scale
    solution = torch.linalg.lstsq(design, target).solution
    error = (design @ solution - target).norm() / target.norm()
    return error.item(), torch.stack([solution[pairs.index((c, c))] for c in range(channels)])
