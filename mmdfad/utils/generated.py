"""Config files that mmdfad writes, but never over a file of somebody else."""

import hashlib
from pathlib import Path

from .atomic import atomic_write
from .errors import DistillError

# The last line of such a file.
SEAL = '# Written by mmdfad, which replaces this file only while nobody has changed it: '


def write_config(path: str | Path, text: str) -> None:
    """Write a config file atomically.

    Args:
        path (str | Path): The file.
        text (str): Its content.

    Raises:
        DistillError: If there is such a file that mmdfad did not write, or that was changed since.
        OSError: If it cannot be written.
    """
    require_replaceable(path)
    text = f'{text.rstrip()}\n'
    atomic_write(path, f'{text}{SEAL}{_digest(text)}\n'.encode())


def require_replaceable(path: str | Path) -> None:
    """Check that a config file is not somebody else's work.

    Args:
        path (str | Path): The file. It need not exist.

    Raises:
        DistillError: If it exists, and mmdfad did not write it, or it was changed since.
    """
    if not is_replaceable(path):
        sealed = SEAL in Path(path).read_text(encoding='utf-8')
        what = 'it was changed since mmdfad wrote it' if sealed else 'mmdfad did not write it'
        raise DistillError(
            f'{path} would be overwritten, but {what}; choose another folder with --work-dir (or --out-dir), or move '
            'the file'
        )


def is_replaceable(path: str | Path) -> bool:
    """Whether a config file does not exist, or is as mmdfad wrote it.

    Args:
        path (str | Path): The file.
    """
    path = Path(path)
    if not path.exists():
        return True
    text, sealed, digest = path.read_text(encoding='utf-8').rpartition(SEAL)
    return bool(sealed) and digest.strip() == _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
