"""Attention transfer: where in an image a network is active."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mmdfad.models.network import Network
from mmdfad.models.step import Step, Tap
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.model import upcast

from .base import Objective
from .pairs import aligned, channel_axis, find_stages


@MODELS.register_module()
class AttentionTransfer(Objective):
    """Distance of normalised attention maps at the outputs of stages.

    An attention map is the mean over channels of the squared features, flattened and divided by its l2 norm. The value
    is the sum over stages of the mean squared difference of the two maps (Zagoruyko and Komodakis, arXiv 1612.03928;
    ZSKT, arXiv 1905.09768, eq. 3).

    Args:
        teacher_stages (Sequence[str], optional): Modules of the teacher, with maps or tokens [N, L, C]. Defaults to
            those that :func:`~mmdfad.models.objectives.pairs.find_stages` finds.
        student_stages (Sequence[str], optional): As many modules of the student.
        kwargs: ``weight`` and ``begin``, see :class:`~mmdfad.models.objectives.Objective`.
    """

    name = 'attention'

    def __init__(
        self, teacher_stages: Sequence[str] | None = None, student_stages: Sequence[str] | None = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.stages = dict(teacher=teacher_stages, student=student_stages)
        self._pairs: list[tuple[Tap, Tap]] = []
        self._student_size: tuple[int, int] | None = None

    def bind(self, teacher: Network, student: Network) -> set[Tap]:
        """Record the outputs of both networks' stages.

        Raises:
            DistillError: If they do not have the same number of stages.
        """
        self._student_size = student.image_size
        names = {n.role: self.stages[n.role] or find_stages(n) for n in (teacher, student)}
        if not names['teacher'] or len(names['teacher']) != len(names['student']):
            raise DistillError(
                'AttentionTransfer needs as many stages in the student as in the teacher, but finds '
                f'{list(names["teacher"])} in the teacher and {list(names["student"])} in the student; set its '
                'teacher_stages and student_stages'
            )
        pairs = zip(names['teacher'], names['student'], strict=True)
        self._pairs = [(Tap('teacher', t), Tap('student', s)) for t, s in pairs]
        return {tap for pair in self._pairs for tap in pair}

    def forward(self, step: Step) -> Tensor:
        """The distance, a scalar."""
        size = step.images.shape[2:]
        sizes = self._student_size or size, size
        return sum(_distance(upcast(step[teacher]), upcast(step[student]), sizes) for teacher, student in self._pairs)


def _distance(teacher: Tensor, student: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """The distance of two maps. ``sizes`` are those of the images that the student and the teacher see."""
    sides = zip((student, teacher), sizes, strict=True)
    student, teacher = (f.square().mean(channel_axis(f.shape, *size)).unsqueeze(1) for f, size in sides)
    student, teacher = aligned(student, teacher, sizes)
    return F.mse_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))
