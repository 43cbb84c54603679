"""The contract of starts."""

from collections.abc import Callable

from torch import Tensor

from mmdfad.models.network import Network


class Start:
    """Gives the student its first weights, once.

    Args:
        begin (int): Round before which it is applied. Defaults to 0.
    """

    def __init__(self, begin: int = 0) -> None:
        self.begin = begin

    def check(self, teacher: Network, student: Network) -> None:
        """Check, when the two are built, that the start suits them.

        Raises:
            DistillError: If it does not.
        """

    def apply(self, teacher: Network, student: Network, sample: Callable[[int], Tensor]) -> None:
        """Change the student's weights in place.

        Args:
            teacher (Network): The teacher.
            student (Network): The student.
            sample (Callable[[int], Tensor]): Generates so many images [n, C, H, W]; each call makes new ones.
        """
        raise NotImplementedError
