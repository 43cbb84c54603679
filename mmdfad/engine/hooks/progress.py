"""How far training has come, on a terminal."""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.registry import HOOKS
from mmdfad.utils.model import unwrap
from mmdfad.utils.progress import Bars, counting, live_bars, time_left


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows a bar with the phase, the rounds and the time left, if standard output is a terminal.

    Log lines appear above the bar. A validation, and the layers of a start, have a bar of their own below it. Without a
    terminal the hook does nothing. It does not change the run.
    """

    def __init__(self) -> None:
        self._bars: Bars | None = None

    def before_train(self, runner: Runner) -> None:
        """Show the bar until training ends, however it ends."""
        exit_stack = getattr(runner.train_loop, 'exit_stack', None)
        if exit_stack is None:  # the distiller refuses other loops
            return
        self._shown = exit_stack.enter_context(ExitStack())
        self._bars = self._shown.enter_context(live_bars())
        if self._bars is None:
            return
        self._validation = self._shown.enter_context(ExitStack())
        self._kinds = [_kind(runner, number) for number in range(runner.max_iters)]
        self._estimate = Estimate(self._kinds[runner.iter :])
        self._began: float | None = None
        self._task = self._bars.add_task('', total=runner.max_iters, left='')
        self._show(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Show the kind of this round. Note how long the last one took, with its validation and all hooks."""
        if self._bars is None:
            return
        now = time.monotonic()
        if self._began is not None and not _has_start(runner, runner.iter):
            self._estimate.add(self._kinds[runner.iter - 1], now - self._began)
        self._began = now
        self._show(runner, runner.iter, started=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count the round."""
        if self._bars is not None:
            self._estimate.left[self._kinds[runner.iter]] -= 1
            self._show(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._shown.close()
            self._bars = None

    def before_val(self, runner: Runner) -> None:
        """Show the bar of a validation, if it is part of training."""
        if self._bars is not None:
            bar = counting('validation: batches', len(runner.val_dataloader))
            self._advance = self._validation.enter_context(bar)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count the batch."""
        if self._bars is not None:
            self._advance()

    def after_val(self, runner: Runner) -> None:
        """Take the bar of the validation away."""
        if self._bars is not None:
            self._validation.close()

    def _show(self, runner: Runner, completed: int, started: bool = False) -> None:
        """Show that so many rounds are complete, and what comes next."""
        what = self._kinds[min(completed, runner.max_iters - 1)]
        if _has_start(runner, completed) and not started:
            what = 'start'
        self._bars.update(self._task, description=f'{what}: rounds', completed=completed, left=self._estimate.text())
        self._bars.draw()


class Estimate:
    """The time left, by the mean time of the rounds of each kind so far.

    Args:
        kinds (Iterable[str]): The kind of each round that is left.

    Attributes:
        left (Counter[str]): How many rounds of each kind are left.
    """

    def __init__(self, kinds: Iterable[str]) -> None:
        self.left = Counter(kinds)
        self._seconds: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    def add(self, kind: str, seconds: float) -> None:
        """Add the time of a round."""
        self._seconds[kind] += seconds
        self._seen[kind] += 1

    def text(self) -> str:
        """The time left, or the least of it if there has been no round of some kind. Empty if nothing is known."""
        left = +self.left
        known = left.keys() & self._seen.keys()
        if left and not known:
            return ''
        seconds = sum(left[kind] * self._seconds[kind] / self._seen[kind] for kind in known)
        return time_left(seconds, at_least=known != left.keys())


def _kind(runner: Runner, number: int) -> str:
    """The phases in a round, counted from 0."""
    phases = [phase for phase in runner.train_loop.phases if phase.steps_in(number)]
    return ' and '.join('images' if phase.name == 'generation' else phase.name for phase in phases) or 'no phase'


def _has_start(runner: Runner, number: int) -> bool:
    """Whether the student gets its first weights before a round, counted from 0."""
    start = unwrap(runner.model).start
    return start is not None and start.begin == number
