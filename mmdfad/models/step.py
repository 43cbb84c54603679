"""What one step shows: generated images, and what teacher and student make of them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Tap(NamedTuple):
    """A place in a network whose tensor an objective wants to see.

    Attributes:
        role (str): ``'teacher'`` or ``'student'``.
        module (str): Name of a module of the plain model, as in its state dict: ``'backbone.layer1'``.
        side (str): ``'output'`` or ``'input'`` of that module. Defaults to ``'output'``.
    """

    role: str
    module: str
    side: str = 'output'


@dataclass
class Output:
    """What one network made of a batch of images.

    Attributes:
        logits (Tensor): Class logits before softmax, fp32: [N, K] of a classifier, [N, K, H, W] of a segmentor.
        taps (dict[Tap, Tensor]): The recorded tensors.
    """

    logits: Tensor
    taps: dict[Tap, Tensor] = field(default_factory=dict)


def labels_of(logits: Tensor) -> Tensor:
    """The labels [N] or [N, H, W] of logits [N, K] or [N, K, H, W]."""
    return logits.max(1).indices  # for pixels on CPUs, it is faster than `argmax`


@dataclass
class Step:
    """One batch on its way through a phase.

    Attributes:
        images (Tensor): Images [N, C, H, W] in the teacher's normalised pixel space.
        noise (Tensor): The noise [N, noise_dim] that the images come from.
        round (int): Number of the round, from 0.
        progress (float): Share of the run that is done, in [0, 1].
        teacher (Output, optional): What the teacher made of the images.
        student (Output, optional): What the student made of them.
    """

    images: Tensor
    noise: Tensor
    round: int = 0
    progress: float = 0.0
    teacher: Output | None = None
    student: Output | None = None

    def __getitem__(self, tap: Tap) -> Tensor:
        """The tensor that a tap recorded."""
        return getattr(self, tap.role).taps[tap]
