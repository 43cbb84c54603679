"""Curves of a run as small vector pictures inside a page, in the page's own colours and fonts."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

Series = Sequence[tuple[int, float]]
# Points of a curve. Of more, neighbours are averaged.
_POINTS = 200
_SIZE, _WIDE = (3.7, 2.2), (11.0, 2.4)  # inches of 72 pixels
# Layers that are too few for a chart.
_FEW = 8
# Colours that stand for variables of the page's style sheet.
_COLOURS = {f'#0000{i:02x}': f'var(--series-{i})' for i in range(1, 7)}
_FIRST, _INK, _GRID = '#000001', '#000101', '#000102'
_VARIABLES = {**_COLOURS, _INK: 'var(--muted)', _GRID: 'var(--line)'}
_STYLE = {
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'mmdfad',
    'font.size': 9,
    'text.parse_math': False,
    'path.simplify_threshold': 0.5,
}
# Which values of the log belong into one chart: a title, a pattern of names, and whether the axis is logarithmic.
_CHARTS = (
    ('Predicted agreement on real images', r'predicted_agreement', False),
    ('Agreement on generated images', r'agreement.*', False),
    ('Imitation objectives', r'imitation_.*', False),
    ('Generation objectives', r'generation_.*', False),
    ('Learning rates', r'(.*\.)?lr', True),
    ('Health: diversity, classes, contrast', r'health/(diversity|class_entropy|pixel_std)', False),
    ('Health: gap to the teacher', r'health/gap', False),
    ("Health: change of the student's weights", r'health/student_change', True),
    ('Health: values that are not finite', r'health/nonfinite', False),
)


@dataclass
class Chart:
    """A chart of the page.

    Attributes:
        title (str): What it shows.
        svg (str): The picture.
        legend (list[tuple[str, str]]): A name and a CSS colour for each curve.
    """

    title: str
    svg: str
    legend: list[tuple[str, str]] = field(default_factory=list)


def draw_charts(series: Mapping[str, Series], metrics: Mapping[str, Series], real: bool) -> list[Chart]:
    """Draw what a run has logged.

    Args:
        series (Mapping[str, Series]): (round, value) pairs of each value that was logged in training, all finite.
        metrics (Mapping[str, Series]): The same of validations.
        real (bool): Whether validations were on real data.
    """
    # A single value is in a table.
    measured = {name: values for name, values in metrics.items() if len(values) > 1}
    charts = []
    if real and measured:
        charts.append(_draw('Validation', measured))
    elif measured:
        series = {**series, **{f'{k} (validation)' if k in series else k: v for k, v in measured.items()}}
    for title, pattern, logarithmic in _CHARTS:
        chosen = {k: v for k, v in series.items() if re.fullmatch(pattern, k.removesuffix(' (validation)'))}
        if any(value != 0 for values in chosen.values() for _, value in values):
            band = [series.get(f'predicted_agreement_{end}') for end in ('low', 'high')]
            is_banded = 'predicted_agreement' in chosen and all(band)
            charts.append(_draw(title, chosen, logarithmic, band if is_banded else None))
    return charts


def draw_errors(errors: Sequence[tuple[str, float]]) -> Chart | None:
    """Draw the error of each layer of a least-squares start, in the order in which they were solved.

    Args:
        errors (Sequence[tuple[str, float]]): Names and relative squared errors.

    Returns:
        Chart | None: The chart, or None of few layers: a table says more of them.
    """
    if len(errors) < _FEW:
        return None
    figure, axis = _figure(_WIDE)
    axis.bar(range(1, len(errors) + 1), [min(error, 1.5) for _, error in errors], color=_FIRST, width=0.7)
    axis.set_xlabel('layer, in the order of execution')
    axis.set_ylim(bottom=0)
    axis.margins(x=0.01)
    return Chart('Relative squared error of each layer', _svg(figure))


def _draw(
    title: str, series: Mapping[str, Series], logarithmic: bool = False, band: Sequence[Series] | None = None
) -> Chart:
    figure, axis = _figure(_SIZE)
    if band is not None:
        low, high = (_thin(values) for values in band)
        rounds = [number for number, _ in low]
        axis.fill_between(rounds, *([v for _, v in s] for s in (low, high)), color=_FIRST, alpha=0.18, lw=0)
    named = {}
    for (name, values), colour in zip(series.items(), _COLOURS, strict=False):
        points = _thin(values)
        marker = 'o' if len(points) < 25 else None
        axis.plot(*zip(*points, strict=True), color=colour, lw=1.5, marker=marker, ms=2.5, solid_capstyle='round')
        named[name.partition('/')[2] or name if name.startswith('health') else name] = _COLOURS[colour]
    if logarithmic and all(value > 0 for values in series.values() for _, value in values):
        axis.set_yscale('log')
        axis.yaxis.set_major_locator(LogLocator(numticks=5))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(*_decades(series))
    axis.set_xlabel('round')
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return Chart(title, _svg(figure), [*named.items()])


def _figure(size: tuple[float, float]) -> tuple[Figure, matplotlib.axes.Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        left, bottom = 0.5 / size[0], 0.42 / size[1]  # room for the numbers, in inches
        axis = figure.add_axes((left, bottom, 0.98 - left, 0.96 - bottom))
    for patch in (figure.patch, axis.patch):
        patch.set_visible(False)
    axis.grid(axis='y', color=_GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right', 'left']].set_visible(False)
    axis.spines['bottom'].set_color(_GRID)
    axis.tick_params(which='both', colors=_INK, length=0, labelsize=9)
    axis.xaxis.label.set(color=_INK, size=9)
    return figure, axis


def _svg(figure: Figure) -> str:
    """The picture without anything but itself, in the page's colours and fonts."""
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        FigureCanvasSVG(figure).print_svg(out, metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    svg = out.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<metadata>.*?</metadata>|<!--.*?-->|<style type="text/css">.*?</style>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"|\s+(width|height)="[\d.]+pt"', '', svg)
    svg = re.sub(r'font: ([\d.]+)px [^;"]*', r'font-size: \1px', svg)
    svg = re.sub(r'font-family: [^;"]*;?', '', svg)
    svg = re.sub('|'.join(_VARIABLES), lambda match: _VARIABLES[match[0]], svg)
    return re.sub(r'\n\s*', '\n', svg).strip()


def _thin(values: Series) -> Series:
    """At most so many points, which are means of neighbours."""
    step = math.ceil(len(values) / _POINTS)
    parts = (values[i : i + step] for i in range(0, len(values), step))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _decades(series: Mapping[str, Series]) -> tuple[float, float]:
    """Powers of ten around all values."""
    values = [value for pairs in series.values() for _, value in pairs]
    return 10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values)) + 1e-9)
