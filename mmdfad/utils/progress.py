"""Bars at the bottom of a terminal that show how far long work has come."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

# Seconds between two drawings of the same tasks.
_INTERVAL = 0.1


class _Terminal(Console):
    """The terminal. Its cursor stays visible, because a process that is killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Bars(Progress):
    """Bars below all that is printed and logged meanwhile. They disappear at the end.

    They are drawn when the work calls :meth:`draw`, never by a thread: a thread could hold a lock while a dataloader
    forks its workers. Each task has a field ``left`` with the time that is left, as text.
    """

    def __init__(self) -> None:
        text = '{task.description} {task.completed:.0f} of {task.total:.0f}'
        columns = (TextColumn(text), BarColumn(), TextColumn('{task.fields[left]}'))
        # Long lines stay whole: the terminal breaks them.
        super().__init__(*columns, console=_Terminal(soft_wrap=True), auto_refresh=False, transient=True)
        self._drawn: tuple[list[str], float] = ([], 0.0)

    def draw(self) -> None:
        """Draw, unless the same tasks were drawn just now."""
        (descriptions, when), now = self._drawn, [task.description for task in self.tasks]
        if now != descriptions or time.monotonic() - when > _INTERVAL:
            self.refresh()
            self._drawn = (now, time.monotonic())


_live: Bars | None = None


@contextmanager
def live_bars() -> Iterator[Bars | None]:
    """Bars on the terminal. Where there are some already, these.

    Yields:
        Bars | None: None where standard output is not a terminal, and on all ranks but the first.
    """
    global _live
    if _live is not None:
        yield _live
        return
    bars = Bars() if is_main_process() and sys.stdout.isatty() else None
    if bars is None or not bars.console.is_interactive:
        yield None
        return
    with ExitStack() as stack:
        stack.enter_context(_lines_above(bars))
        _live = bars
        try:
            yield bars
        finally:
            _live = None


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on a terminal how far some work has come, and how long it will take if its parts take equally long.

    Args:
        what (str): What the parts are, such as ``'start: layer'``.
        total (int): How many there are.

    Yields:
        Callable[[], None]: To be called after each part.
    """
    began, done = time.monotonic(), 0
    with live_bars() as bars:
        if bars is None:
            yield lambda: None
            return

        def advance() -> None:
            nonlocal done
            done += 1
            seconds = (time.monotonic() - began) / done * (total - done)
            bars.update(task, completed=done, left=time_left(seconds))
            bars.draw()

        task = bars.add_task(what, total=total, left='')
        try:
            yield advance
        finally:
            bars.remove_task(task)
            bars.draw()


def time_left(seconds: float, at_least: bool = False) -> str:
    """Seconds as text: ``'0:01:30 left'``.

    Args:
        seconds (float): The seconds.
        at_least (bool): Whether more may come on top. Defaults to False.
    """
    return f'{"at least " if at_least else ""}{timedelta(seconds=round(seconds))} left'


@contextmanager
def _lines_above(bars: Bars) -> Iterator[None]:
    """Draw bars, and let lines appear above them."""
    # rich replaces sys.stdout and sys.stderr. The handlers of loggers keep the streams that they were made with.
    handlers = (*MMLogger.get_current_instance().handlers, *logging.getLogger().handlers)
    streams = (sys.stdout, sys.stderr)
    moved = [(h, h.stream) for h in handlers if isinstance(h, logging.StreamHandler) and h.stream in streams]
    with bars:
        for handler, old in moved:
            handler.setStream(sys.stdout if old is streams[0] else sys.stderr)
        try:
            yield
        finally:
            for handler, old in moved:
                handler.setStream(old)
