"""Files that are either whole or not there."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

ATOMIC_BACKEND = 'mmdfad_atomic'


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write a file so that whoever reads it, whenever, finds the old content or the new, and never a part.

    Args:
        path (str | Path): The file; its folder is made if needed.
        content (bytes): What to write.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name, so that what a killed process left behind is overwritten by the next.
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
    """mmengine's backend for local files, with writes that are atomic."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """See mmengine."""
        atomic_write(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """See mmengine."""
        atomic_write(filepath, obj.encode(encoding))


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
