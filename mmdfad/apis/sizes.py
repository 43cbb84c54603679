"""The students that ``--student auto:...`` can make of a teacher, and their sizes."""

import re
from dataclasses import dataclass

import torch
from mmengine.device import get_device
from torch import Tensor

from mmdfad.models.build import build_network
from mmdfad.models.network import Network
from mmdfad.models.pixels import image_channels
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating, model_size
from mmdfad.utils.progress import counting
from mmdfad.utils.quiet import quiet
from mmdfad.utils.table import format_table

from .choices import Choices
from .cost import median_seconds, place_of
from .distill import absolute_path, choose_image_size, count_classes, parse_ratios
from .image_size import Size
from .shrink import shrink

FLAGS = ('auto:0.75', 'auto:0.5', 'auto:0.25', 'auto:depth=0.5', 'auto:width=0.5,depth=0.5')
# Passes that a latency is the median of, unless they take long.
_PASSES = 15


@dataclass(frozen=True)
class MeasuredSize:
    """How large and how fast a model is.

    Attributes:
        params (int): Parameters.
        flops (float): Multiply-adds for each image.
        seconds (float): Median time of a forward pass of one image in eval mode.
    """

    params: int
    flops: float
    seconds: float


@dataclass(frozen=True)
class StudentSizes:
    """A teacher and the students that can be made of it.

    Attributes:
        image_shape (tuple[int, int, int]): Channels, height and width of the images.
        place (str): Where the latencies were measured, for messages.
        teacher (MeasuredSize): The teacher.
        students (dict[str, MeasuredSize]): The students by the value of ``--student``.
        problems (dict[str, str]): Why the others cannot be made, in one line each.
    """

    image_shape: tuple[int, int, int]
    place: str
    teacher: MeasuredSize
    students: dict[str, MeasuredSize]
    problems: dict[str, str]

    def text(self) -> str:
        """A table, with the shares of the teacher's."""
        header = ['--student', 'parameters', 'share', 'multiply-adds', 'share', 'latency', 'share']
        rows = [_row(flag, size, self.teacher) for flag, size in dict(teacher=self.teacher, **self.students).items()]
        shape = 'x'.join(map(str, self.image_shape))
        notes = [
            *(f'{flag}: {problem}' for flag, problem in self.problems.items()),
            f"share: of the teacher's; latency: of one image of {shape}, {self.place}",
        ]
        return '\n'.join([format_table(header, rows), *(f'  {note}' for note in notes)])


def student_sizes(teacher: str, checkpoint: str, image_size: Size | None = None) -> StudentSizes:
    """Measure a teacher and its smaller versions on the device that a run would use.

    Args:
        teacher (str): The teacher's config, a path or ``'package::folder/config.py'``.
        checkpoint (str): The teacher's checkpoint, a path or URL.
        image_size (Size, optional): Height and width of the images, in pixels. Defaults to the size in the teacher's
            config.

    Raises:
        DistillError: If the teacher cannot be built, or nothing tells the image size.
    """
    device = torch.device(get_device())
    with quiet(), counting('measuring: sizes', 1 + len(FLAGS)) as advance:
        cfg_path = absolute_path(teacher)
        network = build_network(dict(cfg_path=cfg_path, checkpoint=absolute_path(checkpoint)), 'teacher')
        size = choose_image_size(Choices(), network, teacher, image_size)
        images = torch.zeros(2, image_channels(network.model), *size)
        of_teacher, students, problems = _measure(network, images, device), {}, {}
        advance()
        for flag in FLAGS:
            try:
                options = shrink(network.cfg, **parse_ratios(flag))
                student = build_network(dict(cfg_path=cfg_path, cfg_options=options), 'student')
                students[flag] = _measure(student, images, device)
            except DistillError as error:
                problems[flag] = _in_short(error)
            advance()
    return StudentSizes((images.shape[1], *size), place_of(device), of_teacher, students, problems)


def _measure(network: Network, images: Tensor, device: torch.device) -> MeasuredSize:
    count_classes(network, images)  # explains why a network cannot take the images
    network, images = network.to(device), images.to(device)
    with torch.no_grad(), evaluating(network):
        size = model_size(network.logits, images)
        seconds = median_seconds(lambda: network.logits(images[:1]), device, _PASSES)
    return MeasuredSize(size.params, size.flops, seconds)


def _in_short(error: DistillError) -> str:
    """What is wrong, without the remedy."""
    return re.sub(r'^--student auto:\S+ ', '', str(error).splitlines()[0].partition('; ')[0])


def _row(flag: str, size: MeasuredSize, teacher: MeasuredSize) -> list[str]:
    def share(name: str) -> str:
        return f'{getattr(size, name) / getattr(teacher, name):.0%}'

    flops = f'{size.flops / 1e6:,.2f} M'
    latency = f'{1000 * size.seconds:,.2f} ms'
    return [flag, f'{size.params:,}', share('params'), flops, share('flops'), latency, share('seconds')]
