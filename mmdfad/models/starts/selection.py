"""A start from some of the teacher's channels."""

from collections.abc import Callable

from torch import Tensor, nn

from mmdfad.models.network import Network
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.state_dict import select_weights

from .base import Start


@MODELS.register_module()
class ChannelSelection(Start):
    """Starts a student that is a narrower or shallower version of the teacher from the teacher's weights.

    Evenly spaced channels of each layer are kept (weight selection, arXiv 2311.18823).

    Args:
        begin (int): Round before which it is applied. Defaults to 0.
    """

    def check(self, teacher: Network, student: Network) -> None:
        if student.checkpoint is not None:
            raise DistillError('give either model.student.checkpoint or model.start, not both')
        lacking = missing_weights(student.plain_state(), teacher.plain_state())
        if lacking:
            raise DistillError(
                'model.start=ChannelSelection needs a student that is a narrower or shallower version of the teacher, '
                f'but {len(lacking)} of its parameters have no counterpart of at least their size there, such as '
                f'{lacking[0]}; remove it'
            )

    def apply(self, teacher: Network, student: Network, sample: Callable[[int], Tensor]) -> None:
        student.load_plain_state(select_weights(student.plain_state(), teacher.plain_state()))


def missing_weights(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> list[str]:
    """Names of the student's parameters that have no counterpart of at least their size in the teacher.

    Args:
        student (dict[str, Tensor]): The student's state dict, with parameters as such (``keep_vars``).
        teacher (dict[str, Tensor]): The teacher's.
    """
    parameters = {name for name, value in student.items() if isinstance(value, nn.Parameter)}
    return sorted(parameters - select_weights(student, teacher).keys())
