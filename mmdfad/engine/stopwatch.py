"""Where the time of a run goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Spans on an accelerator that may wait to be read.
_LONGEST = 10000


class Stopwatch:
    """Adds up the seconds of the parts of a run: of each phase, the start and validations.

    On accelerators it marks the stream of work instead of waiting for the device, and reads the marks later.

    Args:
        device (torch.device): Where the networks are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._unread: list[tuple[str, torch.Event, torch.Event]] = []

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count the time inside for a part."""
        if self.device.type == 'cpu':
            start = time.perf_counter()
            yield
            self._seconds[part] += time.perf_counter() - start
            return
        marks = [torch.Event(self.device, enable_timing=True) for _ in range(2)]
        marks[0].record()
        yield
        marks[1].record()
        self._unread.append((part, *marks))
        if len(self._unread) >= _LONGEST:
            self.read()

    def read(self) -> dict[str, float]:
        """Seconds of each part so far, and of the whole run as ``total``."""
        unread, self._unread = self._unread, []
        if unread:
            torch.accelerator.synchronize()
        for part, start, end in unread:
            self._seconds[part] += start.elapsed_time(end) / 1000
        return {**self._seconds, 'total': time.perf_counter() - self._began}

    def scalars(self) -> dict[str, float]:
        """The seconds as values for a log: ``seconds/imitation``."""
        return {f'seconds/{part}': seconds for part, seconds in self.read().items()}
