"""Errors that users can act upon."""

import logging
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class DistillError(RuntimeError):
    """Something the user can fix.

    The message says what was expected, what was found, and which config key or flag to change.
    """


def require_positive(where: str, **values: int) -> None:
    """Check that arguments are positive whole numbers.

    Args:
        where (str): Where they stand in the config, with ``{}`` for the argument's name: ``'model.generator.{}'``.
        values (int): The arguments by name.

    Raises:
        DistillError: For the first that is not.
    """
    for key, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise DistillError(f'{where.format(key)} must be a positive whole number, but found {value!r}')


def require_count(key: str, value: int, least: int = 0) -> None:
    """Check that a setting is a whole number.

    Args:
        key (str): Where it stands in the config, for messages.
        value (int): The setting.
        least (int): The smallest number that it may be. Defaults to 0.

    Raises:
        DistillError: If it is not, or is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DistillError(f'{key} must be a whole number, {least} or more, but found {value!r}')


def as_pair(size: int | Sequence[int], key: str) -> tuple[int, int]:
    """A size as height and width.

    Args:
        size (int | Sequence[int]): One number for both, or (height, width).
        key (str): Where it stands in the config, for messages.

    Raises:
        DistillError: If it is not one or two positive whole numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise DistillError(f'{key} must be a positive whole number or two, (height, width), but found {size!r}')
    return pair


@contextmanager
def readable_errors() -> Iterator[None]:
    """Run a command-line tool. Nothing that it loads runs code, and errors end it with a message, not a traceback.

    For errors that a user can act upon, the message is all: :class:`DistillError`, errors of the file system, configs
    that do not parse, and unknown types. Anything else is a bug, of mmdfad or of code that it was given: its traceback
    goes to the log of the run, or to a file of its own if the run has no log yet.

    Raises:
        SystemExit: With status 1 and the message on standard error.
    """
    from mmengine.config.utils import ConfigParsingError

    from .checkpoint import only_weights

    try:
        with only_weights():
            yield
    except (DistillError, OSError, ConfigParsingError) as error:
        sys.exit(f'mmdfad: error: {error}')
    except Exception as error:
        if isinstance(error, KeyError) and 'registry' in str(error):
            sys.exit(f'mmdfad: error: unknown type in the config: {error.args[0]}')
        where = _write_traceback()
        sys.exit(f'mmdfad: error: {type(error).__name__}: {error}\nThe traceback is in {where}')


def _write_traceback() -> str:
    """Append the current traceback to the log of the run, or to a new file; returns the path."""
    from mmengine.logging import MMLogger

    loggers = MMLogger._instance_dict.values()
    files = [handler.baseFilename for logger in loggers for handler in logger.handlers if _is_file(handler)]
    path = files[-1] if files else tempfile.mkstemp(prefix='mmdfad-', suffix='.log')[1]
    with open(path, 'a', encoding='utf-8') as file:
        file.write(traceback.format_exc())
    return path


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.FileHandler)
