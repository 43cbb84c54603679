"""A report as a page of one file, which needs no network, and as a table for the terminal."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmdfad.utils.table import format_table

from .curves import draw_charts, draw_errors
from .inspection import Inspection
from .numbers import compare, count, describe, duration, score
from .pictures import legend, show_examples
from .verdict import metric_title, percent

_TEMPLATES = Path(__file__).with_name('templates')
# Rows of the table of classes.
_CLASSES = 15


def render_page(report: dict[str, Any], found: Inspection | None) -> str:
    """Render the page.

    Args:
        report (dict[str, Any]): From :func:`~mmdfad.reports.collect.collect`.
        found (Inspection, optional): The networks, for the pictures.

    Returns:
        str: The HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, duration=duration, describe=describe, svg=lambda chart: Markup(chart.svg)
    )
    seconds = dict(report['seconds'])
    total = seconds.pop('total', 0.0)
    errors = [(row['layer'], row['error']) for row in report['start']['errors'] if row['error'] is not None]
    return environment.get_template('report.html.j2').render(
        report=report,
        rows=compare(report),
        facts=_facts(report),
        examples={} if found is None else show_examples(found.generated, found.classes),
        legend=[] if found is None else legend(found.generated, found.classes),
        classes=(report.get('classes') or {}).get('rows', [])[:_CLASSES],
        charts=draw_charts(report['series'], report['metrics'], report['validation'] is not None),
        checked=any(name.startswith('health/') for name in report['series']),
        parts=[(part, value, number) for number, (part, value) in enumerate(seconds.items(), 1) if value > 0],
        total=total,
        start=draw_errors(errors),
        errors=sorted(errors, key=lambda error: -error[1]),
        style=Markup((_TEMPLATES / 'style.css').read_text()),
    )


def _facts(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers that matter most: a value, what it is, and a detail."""
    networks, real, generated = report['networks'], report['validation'], report['generated']
    facts = []
    if real:
        main = real['main']
        of_teacher = real['teacher'].get(main)
        detail = f'teacher {score(main, of_teacher)}' if of_teacher is not None else 'of the last student'
        facts.append((score(main, real['student'][main]), f'{metric_title(main)}, validation data', detail))
    if real and real['agreement'] is not None:
        facts.append((percent(real['agreement']), 'same label, validation data', f'share of {report["unit"]}'))
    if generated:
        images = f'{generated["count"]:,} images' + ', made so that the two disagree' * generated['adversarial']
        facts.append((percent(generated['agreement']), 'same label, generated images', images))
    if len(networks) == 2:
        for key, label in (('params', 'fewer parameters'), ('flops', 'fewer multiply-adds')):
            teacher, student = (networks[role][key] for role in ('teacher', 'student'))
            facts.append((f'{teacher / max(student, 1):.1f}x', label, f'{count(teacher)} to {count(student)}'))
    return facts[:4]


def render_table(report: dict[str, Any], work_dir: Path) -> str:
    """The summary for the end of a log: teacher against student, and where to find what.

    Args:
        report (dict[str, Any]): From :func:`~mmdfad.reports.collect.collect`.
        work_dir (Path): The run's work directory.
    """
    rows = [[row['label'], row['teacher'], row['student'], row['ratio']] for row in compare(report)]
    real, prediction, generated = report['validation'], report['prediction'], report['generated']
    if generated:
        rows.append(['same label, generated images', '', percent(generated['agreement']), ''])
    if real and real['agreement'] is not None:
        rows.append(['same label, validation data', '', percent(real['agreement']), ''])
    if prediction:
        value = '' if prediction['value'] is None else f'{percent(prediction["value"])}, '
        interval = f'{value}{percent(prediction["low"])} to {percent(prediction["high"])}'
        rows.append(['same label, real images (predicted)', '', interval, ''])
    student = work_dir / 'student.{py,pth}' if (work_dir / 'student.pth').is_file() else None
    lines = [
        *(f'{role}: {describe(network)}' for role, network in report['networks'].items()),
        report['verdict'],
        f'files: {student}' if student else None,
        f'report: {work_dir / "report.html"}',
        f'next: {report["commands"][0]["text"]}',
    ]
    done, planned = (f'{report["rounds"][key]:,}' for key in ('done', 'planned'))
    title = f'{report["status"]["state"]} with the student of round {done} of {planned}'
    table = format_table(['', 'teacher', 'student', 'ratio'], rows)
    return '\n'.join([title, table, *(f'  {line}' for line in lines if line)])
