"""Bars of real processes in real terminals."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from terminal import run_in_terminal, screen

from mmdfad.utils.progress import time_left

# Work of three parts that prints, logs and warns, inside other work of three parts.
WORK = """
import logging, sys, time
from mmengine.logging import MMLogger
from mmdfad.utils.progress import counting
logging.basicConfig(format='root %(message)s')
logger = MMLogger.get_instance('own')
streams = [handler.stream for handler in (*logger.handlers, *logging.getLogger().handlers)]
def work():
    with counting('outer: parts', 3) as advance:
        for number in range(3):
            with counting('inner: parts', 2) as advance_inner:
                time.sleep(0.11)
                advance_inner()
                logger.info(f'logged {number}')
                logging.warning(f'warned {number}')
                print(f'printed {number}', 'x' * 150)
                sys.stderr.write(f'error {number}\\n')
            END
            advance()
try:
    work()
except ValueError:
    pass
assert streams == [handler.stream for handler in (*logger.handlers, *logging.getLogger().handlers)]
assert streams == [sys.stdout, sys.stderr]
logger.info('last')
"""


def command(end: str = 'pass') -> list[str]:
    return [sys.executable, '-c', WORK.replace('END', end)]


def expected(parts: int) -> list[str]:
    """The lines that the work writes, without times."""
    lines = ['mmengine - INFO - logged {}', 'root warned {}', f'printed {{}} {"x" * 150}', 'error {}']
    return [*(line.format(i) for i in range(parts) for line in lines), 'mmengine - INFO - last', '']


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r'^\d\d/\d\d \d\d:\d\d:\d\d - ', '', line) for line in lines]


@pytest.mark.parametrize(('end', 'parts'), [('pass', 3), ('raise ValueError', 1)])
def test_lines_appear_above_the_bars_and_no_bar_stays(end, parts):
    ended = run_in_terminal(command(end))
    assert ended.status == 0, ended.output
    assert ended.same_settings
    assert without_times(screen(ended.output)) == expected(parts)
    cut = ended.output.rindex('inner: parts 1 of 2')
    *above, outer, inner = screen(ended.output[: ended.output.index('left', cut)])
    assert re.match(r'outer: parts \d of 3 +[━╸╺]+ ', outer)
    assert re.match(r'inner: parts 1 of 2 +[━╸╺]+ \d:\d\d:\d\d', inner)
    assert without_times(above) == expected(3)[: len(above)]


def test_a_process_that_is_killed_leaves_the_cursor_visible():
    ended = run_in_terminal(command('time.sleep(60)'), stop_at='error 0')
    assert ended.status == -15
    screen(ended.output)  # it does not know how to hide the cursor


@pytest.mark.parametrize('environment', [dict(TERM='dumb'), None], ids=['dumb', 'none'])
def test_without_a_terminal_that_can_move_its_cursor_there_are_only_lines(environment):
    if environment is None:
        result = subprocess.run(
            command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        output = result.stdout
    else:
        output = run_in_terminal(command(), **environment).output.replace('\r\n', '\n')
    assert sorted(without_times(output.split('\n'))) == sorted(expected(3))
    assert '\r' not in output


def test_time_left():
    assert time_left(90.4) == '0:01:30 left'
    assert time_left(86400 + 3600, at_least=True) == 'at least 1 day, 1:00:00 left'
