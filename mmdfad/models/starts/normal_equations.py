"""Least squares from sums over batches, so that memory does not grow with the number of images."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# So many samples for each unknown need no other penalty than the given one. Else these times it are tried.
MANY = 3
_FACTORS = (1, 10, 100, 1000)


class Solution(NamedTuple):
    """A linear map, and what it does to the inputs that it was fitted on.

    Attributes:
        weight (Tensor): [G, M, D], float64.
        bias (Tensor): [G, M]. Zero without a bias.
        mean (Tensor): Mean [G, M] of ``weight @ x``.
        var (Tensor): Variance [G, M] of ``weight @ x``.
        error (float): Sum of squared residuals over that of the targets' deviations from their mean.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    error: float


class NormalEquations:
    """Ridge regression of targets on inputs, one for each group: ``min ||x W + b - y||^2 + c ||W||^2``.

    Sums are in float64. The penalty c is relative to the mean diagonal of ``x'x``. The bias has none. With few samples
    for many unknowns, a larger penalty may predict other samples better. Then cross-validation chooses it.

    Args:
        groups (int): Number of groups G.
        inputs (int): Inputs D of each group.
        outputs (int): Outputs M of each group.
        bias (bool): Whether there is a bias.
        device (torch.device): Where to compute.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, bias: bool, device: torch.device) -> None:
        self.bias = bias
        self.folds = [_Sums.zeros(groups, inputs, outputs, device) for _ in range(2)]

    def add(self, x: Tensor, y: Tensor, fold: int = 0) -> None:
        """Add samples.

        Args:
            x (Tensor): Inputs [n, G, D].
            y (Tensor): Targets [n, G, M].
            fold (int): 0 or 1. In cross-validation, the samples of each validate the solution of the other. Defaults to
                0.
        """
        self.folds[fold].add(x, y)

    def solve(self, ridge: float) -> Solution:
        """Solve for weights and bias.

        Args:
            ridge (float): The relative penalty, or the least one where cross-validation chooses it.
        """
        sums = self.folds[0] + self.folds[1]
        if ridge > 0 and sums.count < MANY * sums.x.shape[1] and all(fold.count for fold in self.folds):
            ridge = min((ridge * factor for factor in _FACTORS), key=self._validated)
        weight, bias = sums.solve(ridge, self.bias)
        mean, var = sums.moments(weight)
        spread = (sums.yy - sums.y.square() / sums.count).sum()
        error = (sums.residual(weight, bias) / spread).item() if spread > 0 else 0.0
        return Solution(weight.transpose(1, 2), bias, mean, var, error)

    def _validated(self, ridge: float) -> float:
        """Squared error of each half of the samples with the solution of the other half."""
        one, other = self.folds
        left = one.residual(*other.solve(ridge, self.bias)) + other.residual(*one.solve(ridge, self.bias))
        return left.item()


@dataclass
class _Sums:
    """Sums over samples x [G, D] and y [G, M]."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def zeros(cls, groups: int, inputs: int, outputs: int, device: torch.device) -> '_Sums':
        sizes = ((inputs,), (outputs,), (inputs, inputs), (inputs, outputs), (outputs,))
        return cls(0, *(torch.zeros(groups, *size, dtype=torch.double, device=device) for size in sizes))

    def __add__(self, other: '_Sums') -> '_Sums':
        return _Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double().transpose(0, 1), y.double().transpose(0, 1)  # [G, n, D], [G, n, M]
        self.count += x.shape[1]
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.xx += x.transpose(1, 2) @ x
        self.xy += x.transpose(1, 2) @ y
        self.yy += y.square().sum(1)

    def solve(self, ridge: float, bias: bool) -> tuple[Tensor, Tensor]:
        """Weights [G, D, M] and biases [G, M]."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        gram, cross = self.xx.clone(), self.xy
        if bias:
            gram -= self.x[:, :, None] * mean_x[:, None]
            cross = cross - self.x[:, :, None] * mean_y[:, None]
        gram.diagonal(dim1=1, dim2=2).add_(ridge * self.xx.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
        weight = _solve_symmetric(gram, cross)
        return weight, mean_y - (mean_x[:, None] @ weight)[:, 0] if bias else torch.zeros_like(mean_y)

    def moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [G, M] of ``x W``."""
        mean = (self.x[:, None] @ weight)[:, 0] / self.count
        squares = ((self.xx @ weight) * weight).sum(1) / self.count
        return mean, (squares - mean.square()).clamp_min(0)

    def residual(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Sum of ``(x W + b - y)^2``, a scalar."""
        squares = ((self.xx @ weight) * weight).sum(1) + self.yy + self.count * bias.square()
        outputs = (self.x[:, None] @ weight)[:, 0]
        mixed = bias * (outputs - self.y) - (weight * self.xy).sum(1)
        return (squares + 2 * mixed).sum().clamp_min(0)


class ChannelEquations:
    """Least squares of each channel's targets on its own input: ``min (a x + b - y)^2``.

    Args:
        channels (int): Number of channels C.
        bias (bool): Whether there is an offset b.
        scale (bool): Whether there is a factor a; else it is 1.
        device (torch.device): Where to compute.
    """

    def __init__(self, channels: int, bias: bool, scale: bool, device: torch.device) -> None:
        self.bias = bias
        self.scale = scale
        self.count = 0
        self.x, self.y, self.xx, self.xy, self.yy = torch.zeros(5, channels, dtype=torch.double, device=device)

    def add(self, x: Tensor, y: Tensor, fold: int = 0) -> None:
        """Add samples: inputs and targets, both [n, C]."""
        x, y = x.double(), y.double()
        self.count += len(x)
        for total, values in ((self.x, x), (self.y, y), (self.xx, x * x), (self.xy, x * y), (self.yy, y * y)):
            total += values.sum(0)

    def solve(self, ridge: float) -> Solution:
        """Solve for factors and offsets, as a map with G = C, M = D = 1. There is no penalty: two numbers need none."""
        mean, mean_y = self.x / self.count, self.y / self.count
        var, cov = self.xx / self.count - mean * mean, self.xy / self.count - mean * mean_y
        squares, products = (var, cov) if self.bias else (self.xx / self.count, self.xy / self.count)
        # A channel that does not vary has no factor.
        varies = squares > 1e-12 * (self.xx / self.count)
        factor = torch.where(varies, products / squares.where(varies, torch.ones_like(squares)), 0.0)
        factor = factor if self.scale else torch.ones_like(factor)
        bias = mean_y - factor * mean if self.bias else torch.zeros_like(mean)
        spread = (self.yy - self.y * mean_y).sum()
        left = self.yy + factor.square() * self.xx + self.count * bias.square()
        left = left + 2 * factor * bias * self.x - 2 * factor * self.xy - 2 * bias * self.y
        error = (left.sum().clamp_min(0) / spread).item() if spread > 0 else 0.0
        return Solution(factor[:, None, None], bias[:, None], mean[:, None], var.clamp_min(0)[:, None], error)


def _solve_symmetric(matrices: Tensor, right: Tensor) -> Tensor:
    """Solve systems [G, D, D] with right sides [G, D, M]; in the sense of least squares where they are singular."""
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if not failed.any():
        return torch.cholesky_solve(right, factors)
    if not matrices.isfinite().all():  # eigh would raise an error; the layer keeps its weights
        return torch.full_like(right, torch.nan)
    values, vectors = torch.linalg.eigh(matrices)
    kept = values > 1e-12 * values[:, -1:].clamp_min(1e-300)
    inverse = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0.0)
    return vectors @ (inverse[:, :, None] * (vectors.transpose(1, 2) @ right))
