"""What a run has left in its work directory: log lines and logged values, of all its sessions."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mmdfad.utils import DistillError

# What the report's hook logs. The tool finds it again.
ENVIRONMENT, STOPPED, WRITTEN = 'Environment: ', 'The run stopped: ', 'Distillation report'
ENDED_EARLY = 'A hook has ended the run early, '
_RECORD = re.compile(r'(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - \S+ - ([A-Z]+) - (.*)')
_LOCATION = re.compile(r'\S+ - \S+ - \d+ - ')  # mmengine's, in errors
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')
_LAYER = re.compile(r'Least squares: (\S+), relative error ([\d.]+|inf)')
_NOTE = 'Least squares: the student '
_HEALTH = re.compile(r'Round (\d+): (.*)', re.DOTALL)
TRAINS = re.compile(r'^train_cfg\s*=\s*(?!None)', re.MULTILINE)


class Record(NamedTuple):
    """An entry of a log.

    Attributes:
        time (str): When it was written: ``'2026/01/31 12:00:00'``.
        level (str): ``'INFO'``, ``'WARNING'`` or ``'ERROR'``.
        text (str): The message. It may have several lines.
    """

    time: str
    level: str
    text: str


@dataclass(frozen=True)
class Session:
    """One process of a run: from its start, or a resume, to its end.

    Attributes:
        folder (Path): Its folder in the work directory.
    """

    folder: Path

    @cached_property
    def records(self) -> list[Record]:
        """list[Record]: The entries of the log, without those of reports."""
        found: list[list[str]] = []
        for line in _read(self.folder / f'{self.folder.name}.log').splitlines():
            match = _RECORD.match(line)
            if match:
                found.append([*match.groups()])
            elif found:
                found[-1][2] += f'\n{line}'
        records = (
            Record(when, level, _LOCATION.sub('', text, count=1) if level == 'ERROR' else text)
            for when, level, text in found
        )
        return [record for record in records if not record.text.startswith(WRITTEN)]

    @cached_property
    def scalars(self) -> list[dict]:
        """list[dict]: The logged values, in their order."""
        return [*_json_lines(_read(self.folder / 'vis_data/scalars.json'))]

    @cached_property
    def config(self) -> str:
        """str: The text of its config, or ''."""
        return _read(self.folder / 'vis_data/config.py')

    @property
    def resumed(self) -> int | None:
        """Int | None: The round that it was resumed from, if it was."""
        found = [match for record in self.records if (match := _RESUMED.match(record.text))]
        return int(found[-1][1]) if found else None


@dataclass
class Logs:
    """The logs of a run.

    Attributes:
        sessions (list[Session]): In the order of time.
        series (dict[str, list[tuple[int, float]]]): (round, value) pairs of each value that was logged in training.
            Where sessions overlap, those of the later one count.
        metrics (dict[str, list[tuple[int, float]]]): The same of validations.
    """

    sessions: list[Session]
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def records(self) -> Iterator[Record]:
        """Iterator[Record]: The entries of all sessions."""
        for session in self.sessions:
            yield from session.records

    @property
    def config(self) -> str:
        """str: The text of the last config, or ''."""
        return self.sessions[-1].config if self.sessions else ''

    @property
    def period(self) -> tuple[str, str] | None:
        """tuple[str, str] | None: When the first and the last entry were written."""
        times = [record.time for record in self.records]
        return (times[0], times[-1]) if times else None

    @property
    def start_errors(self) -> list[tuple[str, float]]:
        """list[tuple[str, float]]: Relative squared error of each layer that a least-squares start has solved."""
        found = (_LAYER.match(record.text) for record in self.records)
        return [*{match[1]: (match[1], float(match[2])) for match in found if match}.values()]

    @property
    def start_notes(self) -> list[str]:
        """list[str]: What a least-squares start says of the student."""
        texts = (record.text for record in self.records if record.text.startswith(_NOTE))
        return [*dict.fromkeys(text.removeprefix('Least squares: ') for text in texts)]

    @property
    def health(self) -> list[tuple[int, str]]:
        """list[tuple[int, str]]: Warnings of health checks, with their round."""
        found = (_HEALTH.match(record.text) for record in self.records if record.level == 'WARNING')
        return [(int(match[1]), match[2]) for match in found if match]

    @property
    def environment(self) -> dict | None:
        """Dict | None: The machine and the versions of the last session, if it has logged them."""
        found = [record.text for record in self.records if record.text.startswith(ENVIRONMENT)]
        return json.loads(found[-1].removeprefix(ENVIRONMENT)) if found else None

    @property
    def error(self) -> str | None:
        """Str | None: The error that has ended the last session, if one has."""
        records = self.sessions[-1].records if self.sessions else []
        found = [r.text for r in records if r.level == 'ERROR' and r.text.startswith(STOPPED)]
        return found[-1].removeprefix(STOPPED) if found else None

    @property
    def ended_early(self) -> str | None:
        """Str | None: What the last session says if a hook has ended it before its last round."""
        records = self.sessions[-1].records if self.sessions else []
        return next((record.text for record in records if record.text.startswith(ENDED_EARLY)), None)

    @property
    def seconds(self) -> dict[str, float]:
        """dict[str, float]: Seconds of each part of the run, and of all as ``total``, over all sessions."""
        total: dict[str, float] = {}
        for session in self.sessions:
            last = [values for values in session.scalars if 'seconds/total' in values][-1:]
            for key, value in (last[0] if last else {}).items():
                part = key.removeprefix('seconds/')
                if part != key:
                    total[part] = total.get(part, 0.0) + value
        return total


def read_logs(work_dir: str | Path) -> Logs:
    """Read the logs of a run, and join those of sessions that continue it.

    Args:
        work_dir (str | Path): The run's work directory. Sessions of a test and of earlier runs in it do not count.
    """
    folders = sorted(path.parents[1] for path in Path(work_dir).glob('*/vis_data/config.py'))
    sessions = [session for session in map(Session, folders) if TRAINS.search(session.config)]
    # A session without a value may have ended before its first round. It does not begin the run anew.
    begun = [session for session in sessions if session.scalars] or sessions[-1:]
    first = max((i for i, session in enumerate(begun) if session.resumed is None), default=0)
    logs = Logs(begun[first:])
    for session in logs.sessions:
        _join(logs, session)
    return logs


def require_run(work_dir: str | Path, logs: Logs) -> None:
    """Check that there is a run in a folder.

    Raises:
        DistillError: If there is none.
    """
    if not logs.sessions:
        raise DistillError(
            f'found no run in {work_dir}: expected the work directory of tools/train.py or tools/distill.py, with a '
            'folder like 20260131_120000 that has vis_data/config.py'
        )


def _join(logs: Logs, session: Session) -> None:
    """Add the values of a session."""
    start = session.resumed or 0
    for table in (logs.series, logs.metrics):
        for values in table.values():
            values[:] = [pair for pair in values if pair[0] <= start]
    last = start
    for values in session.scalars:
        trains = 'iter' in values
        if not trains and 'time' not in values:  # seconds
            continue
        # With mmengine's default, validations have no round of their own.
        last = values.get('step') or last
        table = logs.series if trains else logs.metrics
        for key, value in values.items():
            if key not in ('iter', 'step', 'epoch') and not key.startswith('seconds/') and _is_number(value):
                table.setdefault(key, []).append((last, float(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_lines(text: str) -> Iterator[dict]:
    """The whole lines of a file that may end in the middle of one."""
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _read(path: Path) -> str:
    return path.read_text(errors='replace') if path.is_file() else ''
