"""What else the generator minimises: how an image that the teacher knows would look.

A prior takes the teacher's logits, [N, K] or [N, K, H, W], of a batch of generated images, and gives a scalar. All of
them are of later methods than DFAD, and off in the paper's configs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


class GenerationPrior(nn.Module):
    """Base of all priors.

    Attributes:
        name (str): What its value is logged as.
        of_softmax (bool): Whether it takes the logits for those of a softmax.
        watches (bool): Whether it looks into the teacher, beyond its logits.
    """

    name: str
    watches: bool = False
    of_softmax: bool = False

    @contextmanager
    def watching(self, teacher: nn.Module) -> Iterator[None]:
        """Look at the teacher while it sees the generated images; here at nothing."""
        yield

    def forward(self, teacher_logits: Tensor) -> Tensor:
        """The prior's value, a scalar."""
        raise NotImplementedError


@MODELS.register_module()
class BNStatisticsPrior(GenerationPrior):
    """Statistics of the images at the teacher's batch norms, against those of its training data.

    With x the input of a batch norm and the biased variance, the distance is one of

    - ``'l2'``: the sum over layers of ``||var_running - var(x)||_2 + ||mean_running - mean(x)||_2`` (DeepInversion,
      arXiv 1912.08795; DFQ, arXiv 2005.04136).
    - ``'kl'``: the mean over layers and channels of ``KL(N(mean(x), var(x)) || N(mean_running, var_running))`` (Haroush
      et al., arXiv 1912.01274, with the divergence the other way round). What a convolution before a batch norm is
      scaled by changes nothing of what a teacher computes, and in a teacher trained with Adam the scale may differ a
      thousandfold from layer to layer. This distance does not depend on it, where the other one sees only the largest.

    Args:
        distance (str): ``'l2'`` or ``'kl'``. Defaults to ``'l2'``.
    """

    name = 'bn_statistics'
    watches = True

    def __init__(self, distance: str = 'l2') -> None:
        super().__init__()
        if distance not in ('l2', 'kl'):
            raise DistillError(f"distance of BNStatisticsPrior must be 'l2' or 'kl', but found {distance!r}")
        self.distance = distance
        self._terms: list[Tensor] = []

    @contextmanager
    def watching(self, teacher: nn.Module) -> Iterator[None]:
        """Measure the input of each batch norm of the teacher.

        Raises:
            DistillError: If the teacher has none.
        """
        norms = [m for m in teacher.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not norms:
            raise DistillError(
                'BNStatisticsPrior needs batch norms with running statistics in the teacher, which has none; remove '
                'it from model.generation_priors'
            )
        self._terms = []
        handles = [norm.register_forward_pre_hook(self._measure) for norm in norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _measure(self, norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        x = inputs[0].float().transpose(0, 1).flatten(1)  # [C, N * H * W]
        var, mean = torch.var_mean(x, dim=1, correction=0)
        if self.distance == 'l2':
            term = (norm.running_var - var).norm() + (norm.running_mean - mean).norm()
        else:
            expected = norm.running_var + norm.eps
            ratio = (var + norm.eps) / expected
            term = 0.5 * (ratio - 1 - ratio.log() + (norm.running_mean - mean).square() / expected).mean()
        self._terms.append(term)

    def forward(self, teacher_logits: Tensor) -> Tensor:
        terms, self._terms = torch.stack(self._terms), []
        return terms.sum() if self.distance == 'l2' else terms.mean()


@MODELS.register_module()
class TotalVariationPrior(GenerationPrior):
    """Mean absolute difference of neighbouring pixels: images are mostly smooth (DeepInversion, arXiv 1912.08795).

    Transposed convolutions leave a fine checkerboard, which no statistics of a teacher that looks at coarser things
    forbid.
    """

    name = 'total_variation'

    @contextmanager
    def watching(self, teacher: nn.Module) -> Iterator[None]:
        """Measure the images that the teacher is given."""
        handle = teacher.register_forward_pre_hook(self._measure)
        try:
            yield
        finally:
            handle.remove()

    def _measure(self, teacher: nn.Module, inputs: tuple[Tensor]) -> None:
        images = inputs[0].float()
        self._value = (images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2

    def forward(self, teacher_logits: Tensor) -> Tensor:
        value, self._value = self._value, None
        return value


@MODELS.register_module()
class OneHotPrior(GenerationPrior):
    """Cross-entropy of the teacher with its own label: images it is sure of (DAFL, arXiv 1904.01186)."""

    name = 'one_hot'
    of_softmax = True

    def forward(self, teacher_logits: Tensor) -> Tensor:
        return F.cross_entropy(teacher_logits, teacher_logits.argmax(1))


@MODELS.register_module()
class BalancePrior(GenerationPrior):
    """Negative entropy of the mean prediction: all classes alike in a batch (DAFL, arXiv 1904.01186).

    Wrong for the segmentation of scenes, where classes are anything but alike.
    """

    name = 'balance'
    of_softmax = True

    def forward(self, teacher_logits: Tensor) -> Tensor:
        mean = teacher_logits.softmax(1).transpose(0, 1).flatten(1).mean(1)  # [K]
        return (mean * mean.clamp_min(1e-12).log()).sum()
