"""The students that ``--student auto:...`` can make of a teacher, and their sizes."""

import re
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from mmengine.device import get_device
from torch import Tensor

from mmdfad.models.build import build_network
from mmdfad.models.network import Network
from mmdfad.models.pixels import image_channels
from mmdfad.utils import DistillError
from mmdfad.utils.model import ModelSize, evaluating, model_size
from mmdfad.utils.progress import counting
from mmdfad.utils.quiet import quiet
from mmdfad.utils.table import format_table
from mmdfad.utils.timing import seconds_of

from .choices import Choices
from .cost import place_of
from .distill import absolute_path, choose_image_size, count_classes, parse_ratios
from .image_size import Size
from .shrink import shrink

TEACHER = 'teacher'
FLAGS = ('auto:0.75', 'auto:0.5', 'auto:0.25', 'auto:depth=0.5', 'auto:width=0.5,depth=0.5')
# Passes of each network that are timed, but no more after so many seconds.
_PASSES, _LONG = 25, 5.0


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
        models (dict[str, MeasuredSize]): The ``'teacher'``, and the students by the value of ``--student``.
        problems (dict[str, str]): Why other students cannot be made, in one line each.
    """

    image_shape: tuple[int, int, int]
    place: str
    models: dict[str, MeasuredSize]
    problems: dict[str, str]

    def text(self) -> str:
        """A table, with the shares of the teacher's."""
        header = ['--student', 'parameters', 'share', 'multiply-adds', 'share', 'latency', 'share']
        rows = [_row(name, size, self.models[TEACHER]) for name, size in self.models.items()]
        shape = 'x'.join(map(str, self.image_shape))
        notes = [
            *(f'{flag}: {problem}' for flag, problem in self.problems.items()),
            f'share: relative to the teacher; latency: of one image of {shape}, {self.place}',
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
    with quiet(), counting('measuring: sizes', 2 + len(FLAGS)) as advance:
        cfg_path = absolute_path(teacher)
        network = build_network(dict(cfg_path=cfg_path, checkpoint=absolute_path(checkpoint)), 'teacher')
        size = choose_image_size(Choices(), network, teacher, image_size)
        images = torch.zeros(2, image_channels(network.model), *size)
        networks, sizes, problems = {TEACHER: network}, {TEACHER: _size(network, images)}, {}
        advance()
        for flag in FLAGS:
            try:
                options = shrink(network.cfg, **parse_ratios(flag))
                student = build_network(dict(cfg_path=cfg_path, cfg_options=options), 'student')
                networks[flag], sizes[flag] = student, _size(student, images)
            except DistillError as error:
                # What is wrong, without the remedy.
                problems[flag] = re.sub(r'^--student auto:\S+ ', '', str(error).splitlines()[0].partition('; ')[0])
            advance()
        seconds = _latencies(networks, images[:1], device)
        advance()
    models = {name: MeasuredSize(own.params, own.flops, seconds[name]) for name, own in sizes.items()}
    return StudentSizes((images.shape[1], *size), place_of(device), models, problems)


def _size(network: Network, images: Tensor) -> ModelSize:
    count_classes(network, images)  # explains why a network cannot take the images
    with torch.no_grad(), evaluating(network):
        return model_size(network.logits, images)


def _latencies(networks: dict[str, Network], image: Tensor, device: torch.device) -> dict[str, float]:
    """Median seconds of some passes, after one to warm up.

    The networks take turns: what else runs on the machine slows all of them alike.
    """
    image = image.to(device)
    passes = {name: partial(network.to(device).eval().logits, image) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    with torch.no_grad():
        for run in passes.values():
            run()
        while len(seconds[TEACHER]) < _PASSES and sum(map(sum, seconds.values())) < _LONG:
            for name, run in passes.items():
                seconds[name].append(seconds_of(run, device))
    return {name: median(own) for name, own in seconds.items()}


def _row(name: str, size: MeasuredSize, teacher: MeasuredSize) -> list[str]:
    def share(what: str) -> str:
        return f'{getattr(size, what) / getattr(teacher, what):.0%}'

    flops = f'{size.flops / 1e6:,.2f} M'
    latency = f'{1000 * size.seconds:,.2f} ms'
    return [name, f'{size.params:,}', share('params'), flops, share('flops'), latency, share('seconds')]
