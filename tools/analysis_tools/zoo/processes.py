"""Calls of a function in processes with limits of time and memory."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from .models import Refused


def run_isolated(
    jobs: Iterator[tuple], function: Callable[..., str], workers: int, seconds: float, memory: float
) -> Iterator[tuple[tuple, str, str, float]]:
    """Call a function once for each job, in a process of its own that is forked from this one.

    Args:
        jobs (Iterator[tuple]): The arguments of each call.
        function (Callable[..., str]): The function.
        workers (int): Processes at a time.
        seconds (float): Time limit of a call, in seconds.
        memory (float): Limit of the resident memory of a process, in GiB.

    Yields:
        tuple[tuple, str, str, float]: The arguments; ``'passed'``, ``'refused'``, ``'failed'`` or ``'memory'``; what
        the function returned, or the error; and the seconds that it took. Calls that end first come first.
    """
    context = multiprocessing.get_context('fork')
    jobs, running = iter(jobs), []
    while True:
        while len(running) < workers and (job := next(jobs, None)) is not None:
            receiver, sender = context.Pipe(duplex=False)
            folder = tempfile.mkdtemp()  # removed here, because a killed process leaves its files behind
            process = context.Process(target=_in_child, args=(function, job, sender, folder))
            process.start()
            sender.close()
            running.append((job, process, receiver, folder, time.monotonic()))
        if not running:
            return
        time.sleep(0.05)
        for entry in list(running):
            job, process, receiver, folder, start = entry
            outcome = _outcome(process, receiver, time.monotonic() - start, seconds, memory)
            if outcome is not None:
                running.remove(entry)
                process.kill()
                process.join()
                shutil.rmtree(folder)
                yield (job, *outcome, round(time.monotonic() - start, 1))


def _outcome(
    process: multiprocessing.Process, receiver: object, elapsed: float, seconds: float, memory: float
) -> tuple[str, str] | None:
    """Status and reason of a process that has ended or must end; None if it may continue."""
    ended = not process.is_alive()
    if receiver.poll():
        try:
            return receiver.recv()
        except EOFError:
            process.join()
            return 'failed', f'its process ended with exit code {process.exitcode}'
    if ended:
        return 'failed', f'its process ended with exit code {process.exitcode}'
    if elapsed > seconds:
        return 'failed', f'took more than {seconds:g} s'
    if _resident(process.pid) > memory * 2**30:
        return 'memory', f'took more than {memory:g} GiB of memory'
    return None


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    try:
        return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except (OSError, IndexError):
        return 0


def _in_child(function: Callable[..., str], job: tuple, sender: object, folder: str) -> None:
    """Call the function, and send its result. What the model prints is discarded."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    tempfile.tempdir = folder
    MMLogger.get_instance('zoo', log_level='CRITICAL')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        result = ('passed', function(*job))
    except Refused as error:
        result = ('refused', str(error))
    except BaseException as error:  # a model can fail in any way, and each is a result
        result = ('failed', f'{type(error).__name__}: {error}')
    sender.send(result)
    sender.close()
