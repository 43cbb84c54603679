"""The contract of starts."""

from collections.abc import Callable

from torch import Tensor

from mmdfad.models.network import Network
from mmdfad.utils import DistillError, require_count


class Start:
    """Gives the student its first weights, once.

    Args:
        begin (int): Round before which it is applied. Defaults to 0.

    Raises:
        DistillError: If it is not a whole number, 0 or more.
    """

    def __init__(self, begin: int = 0) -> None:
        require_count(f'begin of {type(self).__name__}', begin)
        self.begin = begin

    def check(self, teacher: Network, student: Network) -> None:
        """Check, when the two are built, that the start suits them.

        Raises:
            DistillError: If it does not, or if the student has weights already.
        """
        if student.checkpoint is not None:
            raise DistillError('give either model.student.checkpoint or model.start, not both')

    def apply(self, teacher: Network, student: Network, sample: Callable[[int], Tensor]) -> None:
        """Change the student's weights in place.

        Args:
            teacher (Network): The teacher.
            student (Network): The student.
            sample (Callable[[int], Tensor]): Generates so many images [n, C, H, W]; each call makes new ones.
        """
        raise NotImplementedError
