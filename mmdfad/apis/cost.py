"""What a run will cost, from a timed step of each phase on this machine."""

import copy
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper

from mmdfad.engine import AccelerationHook
from mmdfad.models import AdversarialDistiller
from mmdfad.reports.numbers import duration
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating
from mmdfad.utils.progress import counting
from mmdfad.utils.timing import median_seconds

from .choices import Choices, Task

# Share of --minutes that steps may take, beside validation, checkpoints and checks.
STEPS_SHARE = 0.95
# Copies of a checkpoint in the host's memory while it is written.
_COPIES = 2


@dataclass(frozen=True)
class Cost:
    """What one batch of images takes.

    Attributes:
        generation (float): Seconds of a step of the generation phase. 0 without generation objectives.
        imitation (float): Seconds of a step of the imitation phase.
        forward (float): Seconds of a forward pass of teacher and student, without gradients.
        place (str): Where it was measured, for messages.
        memory (int): Bytes at the peak of these steps: of all tensors on an accelerator, of the whole process on a CPU.
    """

    generation: float
    imitation: float
    forward: float
    place: str
    memory: int


def measure_cost(task: Task, model: dict, optim_wrapper: dict, batch_size: int) -> Cost:
    """Time steps of each kind, after one to warm up, on the device that the run will use.

    Args:
        task (Task): The networks. They are trained, moved to the device and accelerated. No run can use them then.
        model (dict): The other settings of the distiller.
        optim_wrapper (dict): The optimizers.
        batch_size (int): Images in a step.
    """
    device = torch.device(get_device())
    distiller = AdversarialDistiller(task.teacher, task.student, **copy.deepcopy(model))
    distiller.to(device).train()
    optim = build_optim_wrapper(distiller, ConfigDict(optim_wrapper))
    AccelerationHook().accelerate(distiller, optim)
    noise = torch.randn(batch_size, distiller.generator.noise_dim)
    generation = 0.0
    if device.type != 'cpu':
        torch.accelerator.reset_peak_memory_stats()
    with _explained(batch_size, device), counting('timing: steps', 3) as advance:
        if distiller.generator.learns and 'generation' in model:
            generation = median_seconds(lambda: distiller.generation_step(noise, optim['generator']), device)
        advance()
        imitation = median_seconds(lambda: distiller.imitation_step(noise, optim['student']), device)
        advance()
        with torch.no_grad(), evaluating(distiller):
            images = distiller.generator.sample(noise.to(device)).float()
            forward = median_seconds(lambda: (distiller.teacher(images), distiller.student(images)), device)
        advance()
    return Cost(generation, imitation, forward, place_of(device), _peak_memory(device))


@contextmanager
def _explained(batch_size: int, device: torch.device) -> Iterator[None]:
    """Explain what is wrong with the number of images in a step."""
    try:
        yield
    except (torch.OutOfMemoryError, ValueError) as error:
        if isinstance(error, ValueError) and 'more than 1 value per channel' not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise DistillError(
            f'a step of {batch_size} images does not work on this {device.type} ({reason}); change --batch-size'
        ) from error


def place_of(device: torch.device) -> str:
    """Where something is measured, for messages: ``'on 2 threads of this cpu'``."""
    count = torch.get_num_threads()
    threads = f'{count} thread{"s" if count > 1 else ""} of ' if device.type == 'cpu' else ''
    return f'on {threads}this {device.type}'


def explain_time(choices: Choices, seconds: float, parts: str, cost: Cost) -> None:
    """Say how long a run will take.

    Args:
        choices (Choices): Takes what is said.
        seconds (float): How long.
        parts (str): What it is made up of.
        cost (Cost): What one batch takes.
    """
    reason = f'{parts}, by a timed step of each {cost.place}; validation is extra'
    choices.make('expected time', duration(seconds), reason)


def explain_memory(choices: Choices, cost: Cost, images: int = 0) -> None:
    """Say how much memory a run needs.

    Args:
        choices (Choices): Takes the line.
        cost (Cost): What was measured.
        images (int): Bytes of images that the generator keeps, beside those in the measurement. Defaults to 0.
    """
    total = cost.memory + images
    parts = f'{_readable(cost.memory)} at the peak of the timed steps {cost.place}'
    if images:
        parts += f', {_readable(images)} for the images that the generator keeps'
    if images and get_device() == 'cpu':
        total += _COPIES * images
        parts += f', {_readable(_COPIES * images)} for their copies while a checkpoint is written'
    choices.make('expected memory', _readable(total), f'{parts}; the start and validation may take more')


def _readable(size: int) -> str:
    return f'{size / 2**30:.2f} GiB' if size >= 2**30 else f'{size / 2**20:.0f} MiB'


def _peak_memory(device: torch.device) -> int:
    """Bytes: of all tensors on an accelerator since the last reset, or of this process on a CPU since it began."""
    if device.type != 'cpu':
        return torch.accelerator.max_memory_allocated()
    # In KiB on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
