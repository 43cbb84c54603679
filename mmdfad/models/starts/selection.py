"""A start from some of the teacher's channels."""

from collections.abc import Callable

from torch import Tensor

from mmdfad.models.channels import ChannelMap
from mmdfad.models.network import Network
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

from .base import Start


@MODELS.register_module()
class ChannelSelection(Start):
    """Starts a student that is a narrower or shallower version of the teacher from the teacher's weights.

    Evenly spaced channels, heads and blocks are kept (weight selection, arXiv 2311.18823), see
    :class:`~mmdfad.models.channels.ChannelMap`.

    Args:
        begin (int): Round before which it is applied. Defaults to 0.
    """

    def check(self, teacher: Network, student: Network) -> None:
        super().check(teacher, student)
        lacking = ChannelMap(teacher.model, student.model).missing(student.plain_state(), teacher.plain_state())
        if lacking:
            raise DistillError(
                'model.start=ChannelSelection needs a student that is a narrower or shallower version of the teacher, '
                f'but {len(lacking)} of its parameters have no counterpart of at least their size there, such as '
                f'{lacking[0]}; remove it'
            )

    def apply(self, teacher: Network, student: Network, sample: Callable[[int], Tensor]) -> None:
        select_channels(teacher, student)


def select_channels(teacher: Network, student: Network) -> None:
    """Give the student the weights of the teacher's channels and blocks that it stands for."""
    channels = ChannelMap(teacher.model, student.model)
    student.load_plain_state(channels.select(student.plain_state(), teacher.plain_state()))
