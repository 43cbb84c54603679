"""Seconds of calls."""

import time
from collections.abc import Callable
from statistics import median

import torch


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int = 3, longest: float = 2.0) -> float:
    """Median seconds of some calls, after one to warm up.

    Args:
        call (Callable[[], object]): The call.
        device (torch.device): The device that it uses.
        repeats (int): How often it is timed. Defaults to 3.
        longest (float): It is not timed again after so many seconds. Defaults to 2.
    """
    call()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < longest:
        seconds.append(seconds_of(call, device))
    return median(seconds)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call that uses a device, which has finished its work then."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until an accelerator has finished its work."""
    if device.type != 'cpu':
        torch.accelerator.synchronize()
