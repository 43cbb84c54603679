"""What all command-line tools share."""

import logging
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import DistillError


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
    files = [h.baseFilename for logger in loggers for h in logger.handlers if isinstance(h, logging.FileHandler)]
    path = files[-1] if files else tempfile.mkstemp(prefix='mmdfad-', suffix='.log')[1]
    with open(path, 'a', encoding='utf-8') as file:
        file.write(traceback.format_exc())
    return path
