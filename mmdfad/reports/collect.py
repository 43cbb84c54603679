"""Everything that a report says, as plain values."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdfad.evaluation.prediction import kind_of

from .commands import next_commands
from .environment import describe_environment
from .inspection import Inspection
from .logs import Logs
from .validation import validates_on_real_data
from .verdict import main_metric, verdict

# Decimals of shares, and significant digits of other values. More would differ with the order of sums.
_DECIMALS, _DIGITS = 4, 6
# Parts of the time, in the order of the page.
_PARTS = ('generation', 'start', 'imitation', 'validation')


@dataclass(frozen=True)
class Run:
    """A run that has ended, however it did.

    Attributes:
        work_dir (Path): Its work directory, as the user gives it.
        cfg (Config): Its config.
        round (int): Rounds that the student of the report has learned in.
        seed (int, optional): Its seed.
        teacher (Mapping): ``checkpoint`` and ``sha256`` of the teacher.
        logs (Logs): What it has logged.
    """

    work_dir: Path
    cfg: Config
    round: int
    seed: int | None
    teacher: Mapping[str, str | None]
    logs: Logs


def collect(run: Run, found: Inspection | None) -> dict[str, Any]:
    """Collect the content of ``report.json``.

    Args:
        run (Run): The run.
        found (Inspection, optional): What its networks show. None if nobody could look.
    """
    logs, planned = run.logs, int(run.cfg.train_cfg.max_iters)
    done = run.round >= planned or logs.ended_early is not None
    dense = found is not None and found.generated.worst[0].teacher.ndim == 2
    unit = 'pixels' if dense else 'images'
    real = _real_metrics(run, found)
    generated = None if found is None else _generated(found)
    prediction = found and found.prediction
    environment = logs.environment
    return dict(
        title=run.work_dir.absolute().name,
        verdict=verdict(prediction, generated, real, unit),
        status=_status(logs, done, run.round),
        rounds=dict(done=run.round, planned=planned),
        unit=unit,
        prediction=prediction and asdict(prediction),
        networks={} if found is None else found.networks,
        onnx=_onnx(run.work_dir),
        validation=real,
        generated=generated,
        classes=_by_class(found) if found else None,
        start=dict(notes=logs.start_notes, errors=[dict(layer=k, error=v) for k, v in logs.start_errors]),
        seconds=_seconds(logs),
        health=[dict(round=number, text=text) for number, text in logs.health],
        series=_series(logs.series),
        metrics=_series(logs.metrics),
        teacher=dict(run.teacher),
        run=dict(
            seed=run.seed,
            period=logs.period,
            sessions=len(logs.sessions),
            default_scope=run.cfg.get('default_scope'),
            environment=environment or describe_environment(),
            environment_of='run' if environment else 'report',
            config=logs.config or run.cfg.pretty_text,
        ),
        commands=next_commands(run.work_dir, run.cfg, done, run.round < planned),
    )


def plain(value: Any) -> Any:
    """A copy for a JSON file: numbers rounded, and None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f'{value:.{_DIGITS}g}') if math.isfinite(value) else None
    return value


def _onnx(work_dir: Path) -> dict[str, Any] | None:
    """What the export tool found of ``student.onnx``, if that is the file that is there."""
    file, record = work_dir / 'student.onnx', work_dir / 'student.onnx.json'
    if not (file.is_file() and record.is_file()):
        return None
    found = json.loads(record.read_text())
    return found if found['file_bytes'] == file.stat().st_size else None


def _status(logs: Logs, done: bool, number: int) -> dict[str, str | None]:
    """``state`` (``'complete'``, ``'interrupted'`` or ``'failed'``) and the ``reason``."""
    if logs.error:
        return dict(state='failed', reason=logs.error)
    if done:
        return dict(state='complete', reason=logs.ended_early)
    return dict(state='interrupted', reason=f'The run was interrupted. The student is that of round {number:,}.')


def _real_metrics(run: Run, found: Inspection | None) -> dict | None:
    """The last student on real validation data, and the teacher if it was measured."""
    if not validates_on_real_data(run.cfg):
        return None
    scores = found and found.scores
    logged = {key: values[-1] for key, values in run.logs.metrics.items() if key not in ('time', 'data_time')}
    student = scores.metrics['student'] if scores else {key: value for key, (_, value) in logged.items()}
    if not student:
        return None
    return dict(
        main=main_metric([*student]),
        student=student,
        teacher=scores.metrics['teacher'] if scores else {},
        agreement=round(scores.agreement, _DECIMALS) if scores else None,
        round=run.round if scores else max(number for number, _ in logged.values()),
    )


def _generated(found: Inspection) -> dict:
    pairs = found.generated.pairs
    return dict(count=found.generated.count, agreement=round(pairs.agreement, _DECIMALS), adversarial=found.adversarial)


def _by_class(found: Inspection) -> dict:
    """The agreement by class, on probe images if there are any: the student has not trained on them."""
    name = kind_of(found.probes) if found.probes else None
    pairs = found.probes[name] if name else found.generated.pairs
    rows, shares = pairs.by_class(found.classes.names), ('share', 'agreement', 'lost')
    return dict(probes=name, rows=[row | {key: round(row[key], _DECIMALS) for key in shares} for row in rows])


def _seconds(logs: Logs) -> dict[str, float]:
    """Seconds of each part, of the ``rest``, and of all; or nothing if the run has not logged them."""
    found = logs.seconds
    if not found:
        return {}
    parts = {part: found.get(part, 0.0) for part in _PARTS}
    return {**parts, 'rest': max(0.0, found['total'] - sum(parts.values())), 'total': found['total']}


def _series(values: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """What a page draws: finite values, without the times of rounds."""
    finite = {key: [pair for pair in pairs if math.isfinite(pair[1])] for key, pairs in values.items()}
    return {key: pairs for key, pairs in finite.items() if pairs and key not in ('time', 'data_time')}
