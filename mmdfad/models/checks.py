"""Whether teacher, student and generator fit together, and what to change if they do not."""

import re

import torch
from torch import Tensor

from mmdfad.models.generators import Generator
from mmdfad.models.network import Network
from mmdfad.models.objectives.base import LABELS
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating

_KINDS = {2: 'a classifier', 4: 'a segmentor'}


def check_networks(teacher: Network, student: Network, generator: Generator) -> int:
    """Run all three once, in eval mode.

    Args:
        teacher (Network): The teacher.
        student (Network): The student, which maps the teacher's pixels to its own.
        generator (Generator): The generator.

    Returns:
        int: The number of classes.

    Raises:
        DistillError: If they do not fit together.
    """
    device = next(student.parameters()).device
    with torch.no_grad(), evaluating(student), evaluating(generator):
        images = generator(torch.zeros(2, generator.noise_dim, device=device))
        teacher.image_shape = student.image_shape = tuple(images.shape[1:])
        teacher_logits = _try_logits(teacher, images, 'model.generator.channels')
        student_logits = _try_logits(student, images, 'model.student.image_size')
    _check_kinds(teacher, student)
    teacher_classes, student_classes = teacher_logits.shape[1], student_logits.shape[1]
    if teacher_classes != student_classes:
        head = 'head' if student.logits.ndim == 2 else 'decode_head'
        raise DistillError(
            f'model.teacher has {teacher_classes} classes and model.student has {student_classes}; set the '
            f"student's, for example with model.student.cfg_options={{'model.{head}.num_classes': {teacher_classes}}}"
        )
    return teacher_classes


def _try_logits(network: Network, images: Tensor, other_key: str) -> Tensor:
    """Logits of some images; an error tells what to change."""
    shape = list(images.shape[1:])
    try:
        inputs = network.pixels(images)
        shape = list(inputs.shape[1:])
        return network.logits(inputs)
    except DistillError as error:
        raise DistillError(f'model.{network.role}: {error}') from error
    except Exception as error:  # each model has its own way to refuse images
        if network.role == 'student' and wrong_channels(error, shape[0]):
            other_key = "the number of channels that model.student's backbone takes (in_channels)"
        raise DistillError(
            f'model.{network.role} cannot take images of shape {shape} ({type(error).__name__}: {error}); change '
            f'model.generator.image_size or {other_key}'
        ) from error


def wrong_channels(error: Exception, channels: int) -> bool:
    """Whether a convolution refuses the images themselves. Inner layers have wider inputs."""
    found = re.search(r'expected input\[[\d, ]+\] to have \d+ channels, but got (\d+) channels', str(error))
    return found is not None and int(found[1]) == channels


def _check_kinds(teacher: Network, student: Network) -> None:
    """Check that both are classifiers or both segmentors, and that their labels are of one kind."""
    if teacher.logits.ndim != student.logits.ndim:
        raise DistillError(
            f'model.teacher is {_KINDS[teacher.logits.ndim]} and model.student is {_KINDS[student.logits.ndim]}; a '
            'student must be of the same kind'
        )
    if teacher.logits.multi_label != student.logits.multi_label:
        head = 'MultiLabelLinearClsHead' if teacher.logits.multi_label else 'LinearClsHead'
        raise DistillError(
            f'model.teacher is {LABELS[teacher.logits.multi_label]} and model.student is '
            f"{LABELS[student.logits.multi_label]}; give the student a head of the teacher's kind, such as {head}"
        )
