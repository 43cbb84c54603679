"""The folder of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.dist import get_rank, is_main_process

from mmdfad.utils import DistillError
from mmdfad.utils.atomic import atomic_write


@contextmanager
def claimed_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Let no other run write to a work directory.

    Args:
        work_dir (str | Path): The work directory.

    Raises:
        DistillError: If the process cannot write to it, or another run does.
    """
    try:
        probe = Path(work_dir, f'.writable.{get_rank()}')
        atomic_write(probe, b'')
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise DistillError(
            f'cannot write to the work directory {work_dir}: {error}. Choose another with --work-dir'
        ) from error
    if not is_main_process():
        yield
        return
    try:
        # The system releases it, however the process ends.
        lock = FileLock(Path(work_dir, '.lock')).acquire(timeout=0)
    except Timeout as error:
        raise DistillError(
            f'another run is writing to the work directory {work_dir}. Wait until it ends, or choose another with '
            '--work-dir'
        ) from error
    with lock:
        yield
