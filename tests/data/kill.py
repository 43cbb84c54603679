"""Runs tools/train.py and kills it at a given point of a given checkpoint write.

Usage: kill.py POINT FILE tools/train.py ARGUMENTS...
"""

import os
import runpy
import signal
import sys
from pathlib import Path

from mmdfad.utils import atomic

point, target = sys.argv[1:3]
sys.argv = sys.argv[3:]
fsync, replace = os.fsync, Path.replace


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_fsync(descriptor: int) -> None:
    name = Path(os.readlink(f'/proc/self/fd/{descriptor}')).name
    if name == f'.{target}.partial' and point == 'half_written':
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        die()
    fsync(descriptor)


def dying_replace(self: Path, to: Path) -> Path:
    if Path(to).name == target and point == 'before_rename':
        die()
    result = replace(self, to)
    if Path(to).name == target and point == 'after_rename':
        die()
    return result


atomic.os.fsync = dying_fsync
atomic.Path.replace = dying_replace
if point == 'between':
    from mmdfad.engine import AdversarialDistillLoop

    average = AdversarialDistillLoop._average_statistics

    def dying_average(self: AdversarialDistillLoop) -> None:
        average(self)
        if self._iter == int(target):
            die()

    AdversarialDistillLoop._average_statistics = dying_average
runpy.run_path(sys.argv[0], run_name='__main__')
