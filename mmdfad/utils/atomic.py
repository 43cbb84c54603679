"""Writing files so that a reader never finds a part of one."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

ATOMIC_BACKEND = 'mmdfad_atomic'


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader finds either the old content or the new one, never a part.

    Args:
        path (str | Path): The file. Its folder is made if needed.
        content (bytes): What to write.

    Raises:
        OSError: If it cannot be written. The old file, if there is one, is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is fixed: the next process overwrites what a killed one left behind.
    partial = path.with_name(f'.{path.name}.partial')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files, with atomic writes."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """See mmengine."""
        atomic_write(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """See mmengine."""
        atomic_write(filepath, obj.encode(encoding))


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
