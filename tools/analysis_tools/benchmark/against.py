"""Default rounds of two checkouts, which take turns."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmdfad.utils import DistillError

WORKER = Path(__file__).with_name('worker.py')
OWN = Path(__file__).resolve().parents[3]
CLOCKS = ('wall', 'cpu')
# Seconds in which a process should end.
_PATIENCE = 60


def compare(pair: str, other: Path, repeats: int, seed: int) -> dict[str, dict[str, float]]:
    """Time the default rounds of this checkout and of another one.

    Each checkout has a process of its own. The two run one round each in turn, and change the order each time. CPU
    seconds leave out the time that other processes take. They are the better measure on a busy machine.

    Args:
        pair (str): The name of a pair that both checkouts have.
        other (Path): The other checkout. It needs ``mmdfad/.mim`` with its configs.
        repeats (int): Rounds of each checkout.
        seed (int): Seed of weights and noise.

    Returns:
        dict[str, dict[str, float]]: For wall and for CPU seconds: median and minimum of both checkouts, and this
        checkout's share of the other's (``ratio``): of medians, of minimums, and the median share of a turn.

    Raises:
        DistillError: If the other checkout has no such tool or pair, or one of the processes ends.
    """
    other = other.resolve()
    if not (other / 'tools/analysis_tools/benchmark_rounds.py').is_file():
        raise DistillError(f'--against {other} is not a checkout: it has no tools/analysis_tools/benchmark_rounds.py')
    with _worker(OWN, pair, seed) as this_round, _worker(other, pair, seed) as other_round:
        this_round(), other_round()  # to warm up
        times: list[tuple] = []
        for repeat in range(repeats):
            if repeat % 2:
                this_seconds, other_seconds = this_round(), other_round()
            else:
                other_seconds, this_seconds = other_round(), this_round()
            times.append((this_seconds, other_seconds))
    return {clock: _summary([(a[i], b[i]) for a, b in times]) for i, clock in enumerate(CLOCKS)}


@contextmanager
def _worker(checkout: Path, pair: str, seed: int) -> Iterator:
    """A process that is ready for its first round, as a function that runs a round and returns its seconds."""
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get('PYTHONPATH'))))
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(checkout), pair, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': path},
        cwd=checkout,
        text=True,
    )

    def run_round() -> tuple[float, ...]:
        try:
            process.stdin.write('\n')
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ''
        if not answer:
            raise DistillError(f'the process of {checkout} ended with exit code {process.wait()}; see its error above')
        return tuple(map(float, answer.split()))

    try:
        yield run_round
    finally:
        with suppress(BrokenPipeError):  # from a line that an ended process has not read
            process.stdin.close()  # ends the process
        process.stdout.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _summary(times: list[tuple[float, float]]) -> dict[str, float]:
    this, other = zip(*times, strict=True)
    return dict(
        this_median=statistics.median(this),
        other_median=statistics.median(other),
        this_minimum=min(this),
        other_minimum=min(other),
        ratio=statistics.median(this) / statistics.median(other),
        ratio_of_minimums=min(this) / min(other),
        ratio_in_turns=statistics.median(a / b for a, b in times),
    )
