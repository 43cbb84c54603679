"""What a run will cost, from a timed step of each phase on this machine."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper

from mmdfad.engine import AccelerationHook
from mmdfad.models import AdversarialDistiller
from mmdfad.utils.model import evaluating

from .choices import Task

# Each kind of step is timed this often, but no more after so many seconds.
_REPEATS, _LONG = 3, 2.0


@dataclass(frozen=True)
class Cost:
    """Seconds for one batch of images.

    Attributes:
        generation (float): A step of the generation phase. 0 without generation objectives.
        imitation (float): A step of the imitation phase.
        forward (float): A forward pass of teacher and student, without gradients.
        place (str): Where it was measured, for messages.
    """

    generation: float
    imitation: float
    forward: float
    place: str


def measure_cost(task: Task, model: dict, optim_wrapper: dict, batch_size: int) -> Cost:
    """Time steps of each kind, after one to warm up, on the device that the run will use.

    Args:
        task (Task): The networks. They are trained, moved and accelerated, and good for nothing else afterwards.
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
    if distiller.generator.learns and 'generation' in model:
        generation = _seconds(lambda: distiller.generation_step(noise, optim['generator']), device)
    imitation = _seconds(lambda: distiller.imitation_step(noise, optim['student']), device)
    with torch.no_grad(), evaluating(distiller):
        images = distiller.generator.sample(noise.to(device)).float()
        forward = _seconds(lambda: (distiller.teacher(images), distiller.student(images)), device)
    threads = f'{torch.get_num_threads()} threads of ' if device.type == 'cpu' else ''
    return Cost(generation, imitation, forward, f'on {threads}this {device.type}')


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of some calls, after one to warm up. Long ones are timed once."""
    call()
    seconds: list[float] = []
    while len(seconds) < _REPEATS and sum(seconds) < _LONG:
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _wait(device: torch.device) -> None:
    """Wait until an accelerator has finished its work."""
    if device.type != 'cpu':
        torch.accelerator.synchronize()
