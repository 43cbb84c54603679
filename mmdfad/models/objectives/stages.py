"""Imitation of the teacher's stages, with teacher forcing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdfad.models.network import Network
from mmdfad.models.pixels import resize_images
from mmdfad.models.step import Step, Tap
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.model import upcast
from mmdfad.utils.state_dict import spaced

from .base import Objective
from .pairs import Stage, aligned, find_pairs
from .projection import LeastSquaresProjection

# A channel's variance counts as at least this share of the mean over the channels of its stage.
LEAST_VARIANCE = 1e-2
# Multiples of the golden ratio, without their whole parts, are evenly spread (a Weyl sequence).
_GOLDEN = 0.6180339887498949


class _Pair(NamedTuple):
    """A stage of the teacher and the student's that imitates it."""

    teacher: Stage
    student: Stage
    projected: bool
    forced: bool


@MODELS.register_module()
class StageImitation(Objective):
    """Distance of features at the ends of the stages, in units of the variance of each channel.

    The value is the mean over stages, channels and positions of ``(student - teacher)^2 / var(teacher)``. The variance
    is that of the teacher's channel in the batch of all ranks. So each channel counts the same, whatever its scale.

    The features of a stage are what the next stage gets, which is its output in most families. Stages are found and
    paired by :func:`~mmdfad.models.objectives.pairs.find_pairs`. Of an mmseg head, the features before its classifier
    count as one more stage, if both networks have a head of the same kind. If the numbers of channels differ, the
    target is

    - the teacher's channels that weight selection keeps, if the student is a narrower version of the teacher;
    - else all of them, and the student's are mapped to them by
      :class:`~mmdfad.models.objectives.projection.LeastSquaresProjection`.

    **Teacher forcing** (LIT, arXiv 1810.01937). A stage whose input is forced gets the teacher's features in place of
    those of the student's stage before it. It learns from its own weights' mistakes only. Inputs are forced until
    ``until``. From there on to ``until + fade`` they are released one after the other, beginning with the first, each
    in a growing share of the rounds. Inputs behind a projection and those of heads are never forced.

    Args:
        teacher_stages (Sequence[str], optional): Modules of the teacher. Defaults to those that
            :func:`~mmdfad.models.objectives.pairs.find_stages` finds.
        student_stages (Sequence[str], optional): As many modules of the student.
        forcing (dict, optional): ``until`` and ``fade``, both as shares of the run, in [0, 1]. Defaults to no forcing.
        kwargs: ``weight`` and ``begin``, see :class:`~mmdfad.models.objectives.Objective`.

    Raises:
        DistillError: If ``forcing`` is something else.
    """

    name = 'stages'

    def __init__(
        self,
        teacher_stages: Sequence[str] | None = None,
        student_stages: Sequence[str] | None = None,
        forcing: Mapping[str, float] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.stages = dict(teacher=teacher_stages, student=student_stages)
        self.forcing = None if forcing is None else _checked(forcing)
        self.projections = nn.ModuleDict()
        self._pairs: list[_Pair] = []
        self._student_size: tuple[int, int] | None = None

    def bind(self, teacher: Network, student: Network) -> set[Tap]:
        """Pair the stages, and record their features.

        Raises:
            DistillError: If no stages belong together.
        """
        pairs = find_pairs(teacher, student, self.stages)
        narrower = student.is_version_of(teacher)
        self._student_size = student.image_size
        self._pairs = [self._paired(*pair, narrower) for pair in pairs]
        for i, pair in enumerate(self._pairs):
            if pair.projected:
                self.projections[str(i)] = LeastSquaresProjection(_channels(pair.student), _channels(pair.teacher))
        print_log(f'{type(self).__name__}: {", ".join(map(_described, self._pairs))}', 'current')
        return {stage.tap for pair in self._pairs for stage in (pair.teacher, pair.student)}

    def _paired(self, teacher: Stage, student: Stage, narrower: bool) -> _Pair:
        own, theirs = _channels(student), _channels(teacher)
        projected = own != theirs and not (narrower and own < theirs)
        dims = {len(teacher.shape), len(student.shape)}
        fits = dims == {4} or (len(dims) == 1 and _positions(teacher) == _positions(student))
        return _Pair(teacher, student, projected, teacher.next_takes and student.next_takes and fits and not projected)

    def replacements(self, step: Step) -> dict[Tap, Tensor]:
        """The inputs that are forced in this round."""
        forced = [pair for pair in self._pairs if pair.forced]
        return {
            pair.student.tap: self._forced_input(pair, step)
            for i, pair in enumerate(forced)
            if self._is_forced(i, len(forced), step)
        }

    def _is_forced(self, number: int, count: int, step: Step) -> bool:
        if self.forcing is None:
            return False
        until, fade = self.forcing
        if step.progress < until:
            return True
        released = (step.progress - until) * count - number * fade
        # It depends on the round alone, so that resuming changes nothing, and all ranks do the same.
        return released < fade * (step.round * _GOLDEN % 1)

    def _forced_input(self, pair: _Pair, step: Step) -> Tensor:
        features = self._teacher_features(pair, step)
        if _positions(pair.teacher) != _positions(pair.student):
            features = resize_images(features, _positions(pair.student))
        return features.movedim(1, pair.student.axis)

    def _teacher_features(self, pair: _Pair, step: Step) -> Tensor:
        """Features with the channels first, those that the student imitates."""
        features = step[pair.teacher.tap].movedim(pair.teacher.axis, 1)
        # Another type than fp32 would not suit all students.
        return upcast(features if pair.projected else _kept(features, _channels(pair.student)))

    def forward(self, step: Step) -> Tensor:
        """The distance, a scalar."""
        with torch.autocast(step.images.device.type, enabled=False):
            return torch.stack([self._distance(i, pair, step) for i, pair in enumerate(self._pairs)]).mean()

    def _distance(self, number: int, pair: _Pair, step: Step) -> Tensor:
        size = step.images.shape[2:]
        student = upcast(step[pair.student.tap]).movedim(pair.student.axis, 1)
        teacher, student = aligned(self._teacher_features(pair, step), student, (size, self._student_size or size))
        if pair.projected:
            student = self.projections[str(number)](student, teacher)
        return ((student - teacher).square().mean((0, 2)) / _variance(teacher)).mean()


def _variance(features: Tensor) -> Tensor:
    """Variance [C] of features [N, C, P] over the batch of all ranks, with a least value for channels that are dead."""
    var, mean = (moment.double() for moment in torch.var_mean(features, (0, 2), correction=0))
    moments = torch.stack([mean, var + mean.square()])
    all_reduce(moments, 'mean')
    var = moments[1] - moments[0].square()
    return var.clamp_min((LEAST_VARIANCE * var.mean()).clamp_min(1e-12)).to(features)


def _kept(features: Tensor, channels: int) -> Tensor:
    """The channels of features [N, C, ...] that weight selection keeps."""
    total = features.shape[1]
    if total % channels == 0:
        return features[:, :: total // channels]
    return features.index_select(1, spaced(total, channels).to(features.device))


def _channels(stage: Stage) -> int:
    return stage.shape[stage.axis]


def _positions(stage: Stage) -> list[int]:
    return [size for axis, size in enumerate(stage.shape) if axis not in (0, stage.axis)]


def _described(pair: _Pair) -> str:
    channels = f'{_channels(pair.student)} of {_channels(pair.teacher)} channels'
    how = 'projected' if pair.projected else 'can be forced' if pair.forced else 'not forced'
    return f'{pair.student.name} imitates {pair.teacher.name} ({channels}, {how})'


def _checked(forcing: Mapping[str, float]) -> tuple[float, float]:
    values = [*forcing.values()] if isinstance(forcing, Mapping) and set(forcing) == {'until', 'fade'} else []
    valid = values and all(isinstance(value, int | float) and value >= 0 for value in values) and sum(values) <= 1
    if not valid:
        raise DistillError(
            'forcing of StageImitation must be dict(until=..., fade=...), two shares of the run with a sum of at most '
            f'1, but found {forcing!r}'
        )
    return forcing['until'], forcing['fade']
