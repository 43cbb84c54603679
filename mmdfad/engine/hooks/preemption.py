"""Stopping in good order when asked to."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.registry import HOOKS

from ..loop import StopValidation
from .checkpoint import DistillCheckpointHook

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which the same signal may arrive twice: terminals signal every process, and launchers pass signals on.
_ECHO = 2.0


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM or SIGINT, finishes the round, saves a checkpoint, prints how to resume, and ends without an error.

    A validation is not finished. The resumed run makes up for it.
    Clusters send SIGTERM before they take a machine away; SIGINT is Ctrl-C. With many ranks, one signal to any of them
    is enough: all stop after the same round. A second signal, some seconds later, ends the process at once.
    """

    # After everything that changes what is saved, or decides whether training continues.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.stopped = False
        self._asked_at: float | None = None

    def before_train(self, runner: Runner) -> None:
        """Listen for signals until training ends."""
        self._pid = os.getpid()
        exit_stack = getattr(runner.train_loop, 'exit_stack', None)
        if exit_stack is not None:  # the distiller refuses other loops
            exit_stack.enter_context(self._listening())

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save and stop, if any rank was asked to."""
        if not self._anyone_asked() or self.is_last_train_iter(runner):
            return
        self._stop(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """End a validation early. Many ranks finish it, as they may have unequal numbers of batches.

        Raises:
            StopValidation: If the process was asked to stop.
        """
        if get_world_size() == 1 and self._asked_at is not None:
            raise StopValidation

    def after_val(self, runner: Runner) -> None:
        """Save and stop after a validation, if any rank was asked to."""
        if self._anyone_asked() and runner.iter < runner.max_iters:
            self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, rounds: int) -> None:
        for hook in runner.hooks:
            if isinstance(hook, DistillCheckpointHook):
                hook.save_unless_saved(runner, rounds)
        runner.train_loop.stop_training = self.stopped = True
        runner.logger.warning(
            f'Stopped after round {rounds} of {runner.max_iters}. Continue with\n  {resume_command()}'
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if os.getpid() != self._pid:  # a dataloader's worker, which has inherited this
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            sys.stderr.write(f'{signal.Signals(number).name}: finishing the round; send it again to stop at once\n')
        elif time.monotonic() - self._asked_at > _ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)

    def _anyone_asked(self) -> bool:
        asked = torch.tensor(int(self._asked_at is not None))
        if get_world_size() > 1:
            all_reduce(asked, 'max')
        return bool(asked)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Handle the signals in the context. Only the main thread of a program can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._note) or signal.SIG_DFL for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def resume_command() -> str:
    """The command that resumes this run, as far as the process can know how it was started."""
    if Path(sys.argv[0]).name != 'train.py':
        return 'resume=True in the config'
    # At the end it overrides a checkpoint that was named before.
    words = [*(word for word in sys.argv if word != '--resume=auto'), '--resume=auto']
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return shlex.join([Path(sys.executable).name, *words])
    nodes, ranks = os.environ.get('GROUP_WORLD_SIZE', '1'), os.environ.get('LOCAL_WORLD_SIZE', '1')
    return shlex.join(['torchrun', f'--nnodes={nodes}', f'--nproc_per_node={ranks}', *words])
