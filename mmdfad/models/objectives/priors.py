"""How an image that the teacher knows would look: objectives of the generation phase beside the adversary."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models.chance import LABELS, uniform
from mmdfad.models.network import Network
from mmdfad.models.step import Step, Tap, labels_of
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.model import Shared, classifier_of, keeps_statistics, upcast

from .base import Objective


@MODELS.register_module()
class BNStatisticsPrior(Objective):
    """Distance of the images' statistics at the teacher's batch norms from those of its training data.

    With x the input of a batch norm and the biased variance, the distance is one of

    - ``'l2'``: the sum over layers of ``||var_running - var(x)||_2 + ||mean_running - mean(x)||_2`` (DeepInversion,
      arXiv 1912.08795; DFQ, arXiv 2005.04136).
    - ``'kl'``: the mean over layers and channels of ``KL(N(mean(x), var(x)) || N(mean_running, var_running))``. This is
      the divergence of Haroush et al. (arXiv 1912.01274), in the other direction. It does not depend on the scale of a
      layer, which may differ a thousandfold between layers of a teacher trained with Adam. The l2 distance then sees
      only the largest layers.

    Args:
        distance (str): ``'l2'`` or ``'kl'``. Defaults to ``'l2'``.
        kwargs: ``weight`` and ``begin``, see :class:`~mmdfad.models.objectives.Objective`.
    """

    name = 'bn_statistics'
    roles = ('teacher',)

    def __init__(self, distance: str = 'l2', **kwargs) -> None:
        super().__init__(**kwargs)
        if distance not in ('l2', 'kl'):
            raise DistillError(f"distance of BNStatisticsPrior must be 'l2' or 'kl', but found {distance!r}")
        self.distance = distance
        self._norms: Shared[dict[Tap, _BatchNorm]] = Shared({})

    def bind(self, teacher: Network, student: Network) -> set[Tap]:
        """Record the input of each batch norm that the teacher's logits depend on.

        Raises:
            DistillError: If the teacher has none.
        """
        unused = tuple(f'{name}.' for name in teacher.logits.unused_modules)
        modules = [(n, m) for n, m in teacher.model.named_modules() if not f'{n}.'.startswith(unused)]
        self._norms = Shared({Tap('teacher', n, 'input'): m for n, m in modules if keeps_statistics(m)})
        if not self._norms.value:
            raise DistillError(
                'BNStatisticsPrior needs batch norms with running statistics in the teacher, which has none; remove '
                'it from model.generation'
            )
        return set(self._norms.value)

    def forward(self, step: Step) -> Tensor:
        """The distance, a scalar."""
        terms = torch.stack([self._term(norm, step[tap]) for tap, norm in self._norms.value.items()])
        return terms.sum() if self.distance == 'l2' else terms.mean()

    def _term(self, norm: _BatchNorm, inputs: Tensor) -> Tensor:
        x = upcast(inputs).transpose(0, 1).flatten(1)  # [C, N * H * W]
        var, mean = torch.var_mean(x, dim=1, correction=0)
        if self.distance == 'l2':
            return (norm.running_var - var).norm() + (norm.running_mean - mean).norm()
        expected = norm.running_var + norm.eps
        ratio = (var + norm.eps) / expected
        return 0.5 * (ratio - 1 - ratio.log() + (norm.running_mean - mean).square() / expected).mean()


@MODELS.register_module()
class TotalVariationPrior(Objective):
    """Mean absolute difference of neighbouring pixels: images are mostly smooth (DeepInversion, arXiv 1912.08795).

    It works against the fine checkerboard of transposed convolutions, which the teacher's statistics do not see.
    """

    name = 'total_variation'
    roles = ()

    def forward(self, step: Step) -> Tensor:
        """The difference in normalised units, a scalar."""
        images = upcast(step.images)
        return (images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2


@MODELS.register_module()
class SpectrumPrior(Objective):
    """Each octave has a constant share of the next coarser one's contrast, as in photographs.

    The contrast of an octave is the standard deviation of the Haar details: what is lost where each 2x2 pixels become
    their mean. In photographs it hardly depends on the scale (Field, JOSA A 1987; Ruderman and Bialek, PRL 1994). The
    value is the mean over octaves of ``(log(contrast / next contrast) - log(ratio))^2``, for octaves of at least 8
    pixels. Batch norm statistics alone leave generators too little of the finest octave, or too much.

    Args:
        ratio (float): The share, in (0, 1]. Defaults to 0.8.
        kwargs: ``weight`` and ``begin``, see :class:`~mmdfad.models.objectives.Objective`.

    Raises:
        DistillError: If the ratio is out of its range.
    """

    name = 'spectrum'
    roles = ()

    def __init__(self, ratio: float = 0.8, **kwargs) -> None:
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise DistillError(f'ratio of SpectrumPrior must be in (0, 1], but found {ratio!r}')
        self.ratio = ratio

    def forward(self, step: Step) -> Tensor:
        """The value of a batch, a scalar. It is 0 for images below 16 pixels: they have no two octaves to compare."""
        maps, variances = upcast(step.images), []
        while min(maps.shape[2:]) >= 8:
            means = F.avg_pool2d(maps, 2)
            variances.append((F.avg_pool2d(maps.square(), 2) - means.square()).mean())
            maps = means
        contrasts = torch.stack([v.clamp_min(1e-12) for v in variances]).log() / 2 if variances else maps.new_zeros(1)
        return (contrasts.diff() + math.log(self.ratio)).square().sum() / max(1, len(variances) - 1)


@MODELS.register_module()
class OneHotPrior(Objective):
    """Cross-entropy of the teacher with its own label: images it is sure of (DAFL, arXiv 1904.01186, eq. 3)."""

    name = 'one_hot'
    roles = ('teacher',)
    needs_softmax = True

    def forward(self, step: Step) -> Tensor:
        """The cross-entropy in nats, a scalar."""
        return F.cross_entropy(step.teacher.logits, labels_of(step.teacher.logits))


@MODELS.register_module()
class BalancePrior(Objective):
    """Negative entropy of the mean prediction: each class as often in a batch (DAFL, arXiv 1904.01186, eq. 5).

    It is wrong for the segmentation of scenes, where some classes cover far more pixels than others.
    """

    name = 'balance'
    roles = ('teacher',)
    needs_softmax = True

    def forward(self, step: Step) -> Tensor:
        """The negative entropy in nats, a scalar."""
        mean = step.teacher.logits.softmax(1).transpose(0, 1).flatten(1).mean(1)  # [K]
        return (mean * mean.clamp_min(1e-12).log()).sum()


@MODELS.register_module()
class ActivationPrior(Objective):
    """Negative mean absolute feature before the classifier: images that excite the teacher (DAFL, eq. 4).

    Args:
        module (str, optional): The teacher's module whose input is the feature. Defaults to the ``conv_seg`` of an
            mmseg head, and else to its last linear or convolutional layer.
        kwargs: ``weight`` and ``begin``, see :class:`~mmdfad.models.objectives.Objective`.
    """

    name = 'activation'
    roles = ('teacher',)

    def __init__(self, module: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.module = module

    def bind(self, teacher: Network, student: Network) -> set[Tap]:
        """Record the input of the teacher's classifier."""
        name = self.module or classifier_of(teacher.model)
        self._tap = Tap('teacher', name, 'input')
        return {self._tap}

    def forward(self, step: Step) -> Tensor:
        """The negative mean, a scalar."""
        return -upcast(step[self._tap]).abs().mean()


@MODELS.register_module()
class DrawnLabelPrior(Objective):
    """Cross-entropy of the teacher with a label that is drawn for each image (FastDFKD, arXiv 2112.06253, eq. 2).

    The draw comes from the image's noise, so that neither resuming nor another number of ranks changes it. All classes
    are equally likely.
    """

    name = 'drawn_label'
    roles = ('teacher',)
    needs_softmax = True

    def forward(self, step: Step) -> Tensor:
        """The cross-entropy in nats, a scalar."""
        logits = step.teacher.logits
        labels = draw_labels(step.noise, logits.shape[1])
        return F.cross_entropy(logits, labels.view(-1, *[1] * (logits.ndim - 2)).expand(-1, *logits.shape[2:]))


def draw_labels(noise: Tensor, num_classes: int) -> Tensor:
    """Uniformly drawn labels [N] of images with noise [N, noise_dim]."""
    return (uniform(noise, LABELS)[:, 0] * num_classes).long()
