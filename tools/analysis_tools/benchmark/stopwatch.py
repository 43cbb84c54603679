"""Where a round spends its time."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from mmengine.runner import Runner
from torch import Tensor

from mmdfad.models.distiller import PHASES

from .timing import seconds_of, wait


class Stopwatch:
    """Times the parts of a runner's rounds by phase and network.

    A backward pass of the generation phase goes through student and teacher at once, and then through the generator.
    The moment when the images get their gradient separates the two.

    Args:
        runner (Runner): A runner that is ready for a round.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._phase = ''
        self._total: dict[str, float] = {}
        self._started = self._images_ready = 0.0

    def measure(self, repeats: int) -> dict[str, float]:
        """Median seconds of each part in a round. The rest is the time of the loop, its hooks and the losses."""
        seconds: dict[str, list[float]] = defaultdict(list)
        with self._instrumented():
            for _ in range(repeats):
                self._total = {}
                whole = seconds_of(self.runner.train_loop.run_round)
                for key, value in self._total.items():
                    seconds[key].append(value)
                seconds['rest'].append(whole - sum(self._total.values()))
        return {key: round(statistics.median(values), 5) for key, values in seconds.items()}

    @contextmanager
    def _instrumented(self) -> Iterator[None]:
        distiller = self.runner.model
        with ExitStack() as stack:
            for name in ('generator', 'student', 'teacher'):
                part = getattr(distiller, name)
                start, end = self._forward_hooks(name)
                stack.enter_context(part.register_forward_pre_hook(start))
                stack.enter_context(part.register_forward_hook(end))
            for phase in PHASES:
                step = self._named(phase, getattr(distiller, f'{phase}_step'))
                stack.enter_context(patch.object(distiller, f'{phase}_step', step))
            for _, wrapper in self.runner.optim_wrapper.items():
                stack.enter_context(patch.object(wrapper, 'backward', self._backward(wrapper.backward)))
                stack.enter_context(patch.object(wrapper, 'step', self._optimizer_step(wrapper.step)))
            yield

    def _add(self, name: str, seconds: float) -> None:
        key = f'{self._phase}: {name}'
        self._total[key] = self._total.get(key, 0.0) + seconds

    def _named(self, phase: str, step: Callable) -> Callable:
        def named(*args, **kwargs) -> dict:
            self._phase = phase
            return step(*args, **kwargs)

        return named

    def _forward_hooks(self, name: str) -> tuple[Callable, Callable]:
        def start(*_) -> None:
            wait()
            self._started = time.perf_counter()

        def end(module: object, inputs: tuple, output: Any) -> None:
            wait()
            self._add(f'{name} forward', time.perf_counter() - self._started)
            if name == 'generator' and output.requires_grad:
                output.register_hook(self._note_gradient)

        return start, end

    def _note_gradient(self, gradient: Tensor) -> None:
        wait()
        self._images_ready = time.perf_counter()

    def _backward(self, backward: Callable) -> Callable:
        def timed(*args, **kwargs) -> None:
            wait()
            start = time.perf_counter()
            backward(*args, **kwargs)
            wait()
            end = time.perf_counter()
            if self._phase == 'imitation':
                self._add('student backward', end - start)
            else:
                self._add('student and teacher backward', self._images_ready - start)
                self._add('generator backward', end - self._images_ready)

        return timed

    def _optimizer_step(self, step: Callable) -> Callable:
        def timed(*args, **kwargs) -> None:
            self._add('optimizer step', seconds_of(lambda: step(*args, **kwargs)))

        return timed
