"""Log lines of a run."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner

from mmdfad.registry import HOOKS


@HOOKS.register_module()
class DistillLoggerHook(LoggerHook):
    """mmengine's ``LoggerHook``, with one line for a validation and not one for every few batches."""

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Do nothing."""
