"""Reading checkpoints without running code that is in them. A checkpoint may come from anyone."""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from mmengine.runner.checkpoint import CheckpointLoader

from .compat import allow_logged_values
from .errors import DistillError

# Prefix of a path that makes mmengine read a checkpoint with `read_checkpoint`.
CHECKED = 'checked:'
# torch's own switches. They hold for every torch.load.
_ONLY_WEIGHTS, _ANYTHING = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_REFUSED = re.compile(r'GLOBAL (\S+) (?:was not an allowed|whose module)|Trying to (?:call|instantiate)')


def read_checkpoint(path: str, where: str) -> dict:
    """Read a checkpoint that holds only tensors and plain values.

    mmengine tries that, too. But if it fails, mmengine reads the file again and runs the code that is in it. torch does
    not compare the checksums in the file, so flipped bits would become weights.

    Args:
        path (str): A path or URL.
        where (str): How messages name it, such as ``"model.teacher.checkpoint='x.pth'"``.

    Raises:
        DistillError: If the file holds code, or something else than a dict.
        Exception: Whatever torch or the file system raise for a damaged or missing file.
    """
    _compare_checksums(path)
    with only_weights(where):
        content = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    if not isinstance(content, dict):
        raise DistillError(f'{where} must hold a dict, such as a state dict, but found a {type(content).__name__}')
    return content


def _compare_checksums(path: str) -> None:
    """Raise an error if a local file, which torch stores as a zip archive, is damaged."""
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f'the checksum of {damaged} is wrong')


@CheckpointLoader.register_scheme(prefixes=CHECKED)
def _read_checked(filename: str, map_location: str | None = None) -> dict:
    path = filename.removeprefix(CHECKED)
    return read_checkpoint(path, f'the checkpoint {path}')


@contextmanager
def only_weights(where: str = 'a checkpoint') -> Iterator[None]:
    """Let every torch.load refuse to run code, unless the user has allowed it.

    Args:
        where (str): How messages name what is loaded. Defaults to 'a checkpoint'.

    Raises:
        DistillError: If a file that is loaded in the context holds code.
    """
    if os.environ.get(_ANYTHING, '').lower() in ('1', 'y', 'yes', 'true'):  # torch takes '0' for off
        with _explained(where):
            yield
        return
    before = os.environ.get(_ONLY_WEIGHTS)
    os.environ[_ONLY_WEIGHTS] = '1'
    try:
        with _explained(where):
            yield
    finally:
        del os.environ[_ONLY_WEIGHTS]
        if before is not None:
            os.environ[_ONLY_WEIGHTS] = before


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        with allow_logged_values():
            yield
    except UnpicklingError as error:
        while isinstance(error.__context__, UnpicklingError):  # mmengine has tried twice
            error = error.__context__
        refused = _REFUSED.search(str(error))
        if not refused:
            raise
        what = refused[1] or 'a function'
        raise DistillError(
            f'{where} holds more than weights: reading it would run {what}, which could do anything. Save the file '
            f'again with its state_dict alone. Or, if you trust its author, set the environment variable {_ANYTHING}=1'
        ) from error
