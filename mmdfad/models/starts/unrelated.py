"""Students that are not a version of their teacher: only their classifier can be solved for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.func import functional_call

from mmdfad.utils.model import classifier_of, keeps_statistics

from .matching import Match, Plan, Side
from .passes import LOGITS, Passes
from .recording import record


def solve_classifier(
    teacher: Side, student: Side, batches: list[Tensor], positions: int, ridge: float
) -> dict[str, float]:
    """Give a student's batch norms the statistics of images, and fit its classifier to the teacher's logits.

    Args:
        teacher (Side): The teacher.
        student (Side): The student.
        batches (list[Tensor]): Images on the host.
        positions (int): Sampled positions of the classifier's output, over all images.
        ridge (float): Relative penalty.

    Returns:
        dict[str, float]: The relative squared error of the classifier, if it could be solved for.
    """
    device = next(student.network.parameters()).device
    with _averaging_statistics(student):
        for images in batches:
            if len(images) > 1:  # batch norms after global pooling need two
                student.run(images.to(device))
    name = classifier_of(student.network.model)
    few = batches[0][:4].to(device)
    recording = record(student.run, few, {name: student.modules[name]}, set())
    layer, classes = recording.layers.get(name), teacher.run(few).shape[1]
    if layer is None or layer.channels != classes or not _gives_logits(name, layer.module, student, few):
        print_log(f'Least squares: the student keeps its weights: {name} does not give its logits', 'current')
        return {}
    message = f'Least squares: the student is not a version of the teacher, so only {name} and batch norms are fitted'
    print_log(message, 'current')
    plan = Plan([[Match(layer, LOGITS, torch.arange(classes))]], len(few))
    return Passes(teacher, student, plan, batches, positions, ridge).solve()


def _gives_logits(name: str, layer: nn.Module, student: Side, images: Tensor) -> bool:
    """Whether a layer's output is the logits, not only a part of them: if it is 1 everywhere, they are, too."""
    ones = {f'model.{name}.{key}': torch.full_like(p, float(key == 'bias')) for key, p in layer.named_parameters()}
    logits = functional_call(student.network.logits, ones, student.network.pixels(images))
    return torch.allclose(logits, torch.full_like(logits, float(layer.bias is not None)))


@contextmanager
def _averaging_statistics(student: Side) -> Iterator[None]:
    """Let batch norms average the statistics of all batches, equally, beginning with none."""
    settings = [(m, m.momentum, m.training) for m in student.network.modules() if keeps_statistics(m)]
    for norm, _, _ in settings:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    try:
        yield
    finally:
        for norm, momentum, training in settings:
            norm.momentum, norm.training = momentum, training
