"""Numbers as people read them, and the table of teacher against student."""

from typing import Any

from .verdict import metric_title, percent

_TYPES = dict(float32='fp32', bfloat16='bf16', float16='fp16')


def count(number: float) -> str:
    """A number of things: ``61,706``, ``1.23 M``, ``4.56 G``."""
    for size, letter in ((1e9, 'G'), (1e6, 'M')):
        if number >= size:
            return f'{number / size:,.2f} {letter}'
    return f'{number:,.0f}'


def duration(seconds: float) -> str:
    """Seconds as ``12 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    seconds = round(seconds) if seconds >= 10 else seconds
    if seconds < 60:
        return f'{seconds:.0f} s' if seconds >= 10 else f'{seconds:.1f} s'
    minutes, rest = divmod(int(seconds), 60)
    return f'{minutes} min {rest} s' if minutes < 60 else f'{minutes // 60:,} h {minutes % 60} min'


def latency(seconds: float | None) -> str:
    """Seconds of a forward pass in milliseconds."""
    return '-' if seconds is None else f'{seconds * 1e3:,.3g} ms' if seconds < 1 else f'{seconds * 1e3:,.0f} ms'


def score(name: str, value: float | None) -> str:
    """A metric. Those of mmpretrain and mmseg are in percent, shares are in [0, 1]."""
    if value is None:
        return '-'
    return percent(value) if 'agreement' in name else f'{value:.1f}' if abs(value) > 1 else f'{value:.3f}'


def compare(report: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of teacher against student.

    Args:
        report (dict[str, Any]): From :func:`~mmdfad.reports.collect.collect`.

    Returns:
        list[dict[str, str]]: ``label``, ``teacher``, ``student`` and ``ratio``, how many times the teacher has what the
        student has.
    """
    networks = report['networks']
    rows = [
        _row(networks, 'parameters', lambda n: n['params'], count),
        _row(networks, 'multiply-adds per image', lambda n: n['flops'], count),
        _row(networks, 'file size', lambda n: n['file_bytes'], lambda size: f'{size / 2**20:,.2f} MiB'),
    ]
    for dtype, batches in next(iter(networks.values()), {}).get('latency', {}).items():
        for batch in batches:
            label = f'latency, batch of {batch}, {_TYPES.get(dtype, dtype)}'
            rows.append(_row(networks, label, lambda n, d=dtype, b=batch: n['latency'][d][b], latency))
    if report['onnx']:
        size, seconds = report['onnx']['file_bytes'], report['onnx']['seconds']
        found = {'latency, batch of 1, ONNX': latency(seconds), 'file size, ONNX': f'{size / 2**20:,.2f} MiB'}
        rows += [dict(label=label, teacher='-', student=text, ratio='') for label, text in found.items()]
    real = report['validation']
    for name in sorted(real['student'], key=lambda name: name != real['main']) if real else ():
        values = {role: score(name, real[role].get(name)) for role in ('teacher', 'student')}
        rows.append(dict(label=f'{metric_title(name)}, validation data', **values, ratio=''))
    return [row for row in rows if row['student'] != '-' or row['teacher'] != '-']


def describe(network: dict[str, Any]) -> str:
    """A network in a few words."""
    return '{} at {}x{} pixels'.format(network['model'], *network['image_size'])


def _row(networks: dict, label: str, value: Any, text: Any) -> dict[str, str]:
    values = {role: value(networks[role]) if role in networks else None for role in ('teacher', 'student')}
    both = all(values.values())
    return dict(
        label=label,
        **{role: '-' if found is None else text(found) for role, found in values.items()},
        ratio=f'{values["teacher"] / values["student"]:.2f}x' if both else '',
    )
