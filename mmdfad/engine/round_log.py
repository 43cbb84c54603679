"""Values that rounds give, read from the device only when they are needed."""

import math

import torch
from mmengine.logging import MessageHub
from torch import Tensor

from mmdfad.models.distiller import PHASES
from mmdfad.utils import DistillError

from .run_record import last_checkpoint

# Rounds that may wait without being logged.
_LONGEST = 1000


class RoundLog:
    """Collects the values of rounds, and hands them to mmengine's message hub.

    Reading a value waits for the device, so values are read together, when the log processor asks for them. A state
    that is not finite does not get into a checkpoint meanwhile: the checkpoint hook looks, too.

    Args:
        message_hub (MessageHub): Where mmengine logs from.
        work_dir (str): The run's folder, for messages.
    """

    def __init__(self, message_hub: MessageHub, work_dir: str) -> None:
        self.message_hub = message_hub
        self.work_dir = work_dir
        self._unread: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, number: int, values: dict[str, Tensor]) -> None:
        """Take the values of a round, which is counted from 1."""
        self._unread.append((number, values))
        if len(self._unread) >= _LONGEST:
            self.flush()

    def flush(self) -> None:
        """Read all values.

        Raises:
            DistillError: If a loss is not finite.
        """
        unread, self._unread = self._unread, []
        tensors = [value.float() for _, values in unread for value in values.values()]
        numbers = iter(torch.stack(tensors).tolist() if tensors else [])
        for round_number, values in unread:
            read = {key: next(numbers) for key in values}
            for phase, updated in PHASES.items():
                self._check_finite(f'{phase}_loss', read, updated, round_number)
            for key, value in read.items():
                self.message_hub.update_scalar(f'train/{key}', value)
        if unread:
            self._forget_all_but(unread[-1][1])

    def _forget_all_but(self, last: dict[str, Tensor]) -> None:
        """Drop the values of phases that have ended: mmengine would log the last of them for ever."""
        for key in [*self.message_hub.log_scalars]:
            own = key.removeprefix('train/')
            if own.partition('_')[0] in PHASES and own not in last:
                self.message_hub.log_scalars.pop(key)

    def _check_finite(self, key: str, values: dict[str, float], updated: str, round_number: int) -> None:
        if not math.isfinite(values.get(key, 0)):
            raise DistillError(
                f'{key} is {values[key]} in round {round_number}: the {updated} has diverged. '
                f'{last_checkpoint(self.work_dir)}. Lower optim_wrapper.{updated}.optimizer.lr, warm it up, or set '
                f'optim_wrapper.{updated}.clip_grad'
            )
