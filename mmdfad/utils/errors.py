"""The one exception that users are meant to read."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class DistillError(RuntimeError):
    """Something the user can fix.

    The message says what was expected, what was found, and which config key or flag to change.
    """


def require_positive(where: str, **values: int) -> None:
    """Check that arguments are positive whole numbers.

    Args:
        where (str): What they belong to, with ``{}`` for the argument's name, as in ``'model.replay.{}'``.
        values (int): The arguments by name.

    Raises:
        DistillError: For the first that is not.
    """
    for key, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise DistillError(f'{where.format(key)} must be a positive whole number, but found {value!r}')


@contextmanager
def readable_errors() -> Iterator[None]:
    """End a command-line tool with one line instead of a traceback.

    Only errors that a user can act upon are shortened: :class:`DistillError`, errors of the file system, configs that
    do not parse and types that no registry knows. Anything else is a bug and keeps its traceback.

    Raises:
        SystemExit: With status 1 and the message on standard error.
    """
    from mmengine.config.utils import ConfigParsingError

    try:
        yield
    except (DistillError, OSError, ConfigParsingError) as error:
        sys.exit(f'mmdfad: error: {error}')
    except KeyError as error:
        if 'registry' not in str(error):
            raise
        sys.exit(f'mmdfad: error: unknown type in the config: {error.args[0]}')
