"""Teacher and student on generated images: where they agree, and what to show of it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdfad.engine.probe import probe_noise, to_pictures
from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.models.label_pairs import LabelPairs
from mmdfad.models.step import labels_of

# Multiply-adds of teacher and student for all images, some seconds on a CPU core, and bounds for their number.
_FLOPS, _LEAST, _MOST = 6e10, 12, 1024
# Images in a batch, or fewer of many pixels.
_BATCH, _BATCH_PIXELS = 64, 2**20


@dataclass(frozen=True)
class Example:
    """A generated image and what the networks make of it.

    Attributes:
        picture (np.ndarray): uint8 RGB [H, W, 3].
        teacher (np.ndarray): The teacher's label, [] or [H, W].
        student (np.ndarray): The student's.
        confidence (tuple[float, float]): Probabilities that teacher and student give their labels, means over pixels.
        agreement (float): Share of the same labels: 0 or 1 for a classifier.
        distance (float): How far the student is from the teacher's label: the probability that the teacher gives to
            its label beyond what the student gives to it, a mean over pixels.
    """

    picture: np.ndarray
    teacher: np.ndarray
    student: np.ndarray
    confidence: tuple[float, float]
    agreement: float
    distance: float


@dataclass(frozen=True)
class Generated:
    """The labels on all generated images, and some of the images.

    Attributes:
        pairs (LabelPairs): Images, or pixels, by the labels of teacher and student.
        count (int): Number of images.
        worst (list[Example]): Those where the networks differ most, most first.
        drawn (list[Example]): The first ones: a fair sample.
    """

    pairs: LabelPairs
    count: int
    worst: list[Example]
    drawn: list[Example]


def look(distiller: BaseDistiller, flops: float, keep: int) -> Generated:
    """Show generated images to teacher and student. The images are the same in every report of a run.

    Args:
        distiller (BaseDistiller): The distiller.
        flops (float): Multiply-adds of teacher and student for one image. The more, the fewer images.
        keep (int): Examples of each kind to keep.
    """
    count = int(min(max(_FLOPS / max(flops, 1), _LEAST), _MOST))
    batch = max(2, min(_BATCH, _BATCH_PIXELS // math.prod(distiller.generator.image_size)))
    pairs = LabelPairs()
    worst: list[Example] = []
    drawn: list[Example] = []
    device = distiller.device
    with torch.random.fork_rng(devices=[] if device.type == 'cpu' else [device]):
        torch.manual_seed(0)
        for vectors in probe_noise(distiller, count).split(batch):
            images, student, teacher = distiller.probe(vectors)
            pairs.add(labels_of(teacher), labels_of(student))
            examples = _examples(distiller, images, student, teacher)
            drawn += examples[: keep - len(drawn)]
            worst = sorted(worst + examples, key=lambda e: (e.agreement, -e.distance))[:keep]
    return Generated(pairs, count, worst, drawn)


def _examples(distiller: BaseDistiller, images: Tensor, student: Tensor, teacher: Tensor) -> list[Example]:
    labels = labels_of(teacher), labels_of(student)
    probabilities = [distiller.teacher.logits.probabilities(logits) for logits in (teacher, student)]
    own = [_mean(p.gather(1, label.unsqueeze(1))) for p, label in zip(probabilities, labels, strict=True)]
    of_teachers = _mean(probabilities[1].gather(1, labels[0].unsqueeze(1)))
    same = _mean((labels[0] == labels[1]).float().unsqueeze(1))
    columns = (
        to_pictures(distiller, images),
        *(label.cpu().numpy() for label in labels),
        zip(*own, strict=True),
        same,
        [t - s for t, s in zip(own[0], of_teachers, strict=True)],
    )
    return [Example(*row) for row in zip(*columns, strict=True)]


def _mean(values: Tensor) -> list[float]:
    """The mean for each image."""
    return values.flatten(1).mean(1).tolist()
