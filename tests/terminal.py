"""A process in a terminal of its own, and what one sees there."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Sequence
from typing import NamedTuple

from conftest import ROOT

# Wide enough for every line.
WIDTH = 10000
_CODES = re.compile(r'\x1b\[(\d*)([A-Z])|\x1b\[[\d;]*m|(\r)|(\n)|([^\x1b\r\n]+)|(.)', re.DOTALL)


class Ended(NamedTuple):
    """A process that has ended.

    Attributes:
        status: Its exit status.
        output: All that it wrote.
        same_settings: Whether the terminal has the settings that it had before.
    """

    status: int
    output: str
    same_settings: bool


def run_in_terminal(command: Sequence[object], stop_at: str | None = None, **environment: str) -> Ended:
    """Run a process with a terminal as its input and output.

    Args:
        command: The program and its arguments.
        stop_at: Send SIGTERM once the output has this.
        environment: Variables for the process.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 40, WIDTH, 0, 0))
    settings = termios.tcgetattr(ours)
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'TERM': 'xterm', **environment}
    streams = dict.fromkeys(('stdin', 'stdout', 'stderr'), theirs)
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **streams)
    os.close(theirs)
    output = b''
    try:
        while part := os.read(ours, 2**16):
            output += part
            if stop_at is not None and stop_at.encode() in output:
                process.send_signal(signal.SIGTERM)
                stop_at = None
    except OSError:  # how Linux says that the other side has closed
        pass
    same = termios.tcgetattr(ours) == settings
    os.close(ours)
    return Ended(process.wait(), output.decode(), same)


def screen(output: str) -> list[str]:
    """The lines that an endless terminal shows after some output.

    Raises:
        AssertionError: If there is a control character that it does not know, such as one that hides the cursor.
    """
    lines, row, column = [''], 0, 0
    for number, code, back, down, text, other in _CODES.findall(output):
        assert not other, f'unknown control character before {output[output.index(other) :][:20]!r}'
        if code == 'A':
            row -= int(number or 1)
        elif code == 'K':
            assert number == '2'
            lines[row] = ''
        elif back:
            column = 0
        elif down:
            row += 1
            lines += [''] * (row + 1 - len(lines))
        elif text:
            assert column + len(text) < WIDTH
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        else:
            assert not code, f'unknown control code {code}'
    return lines
