"""Fits the prediction of agreement, and judges it on teachers that the fit has not seen."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mmdfad.evaluation.prediction import CALIBRATION, interval_of, kind_of, logit
from mmdfad.utils.atomic import atomic_write

# What each kind of teacher is predicted from.
KINDS = dict(inverted=('inverted', 'leaves'), sure=('sure',), leaves=('leaves',))
RIDGE, COVERAGE = 0.1, 0.9
PLOT = Path('docs/images/predicted_agreement.svg')


def fit(rows: Sequence[dict]) -> None:
    """Fit each kind of teacher, write the calibration and the plot, and print a table.

    Args:
        rows (Sequence[dict]): Measurements of :func:`~calibration.measure.measure`.
    """
    calibration, judged = {}, []
    for kind, sets in KINDS.items():
        # There are no segmentors without batch norm here. Classifiers stand in for them.
        own = [row for row in rows if row['probes'].keys() >= {*sets} and (kind == 'inverted') == _has_statistics(row)]
        inputs = np.array([[1, *(logit(row['probes'][name]) for name in sets)] for row in own])
        targets = np.array([logit(row['truth']) for row in own])
        teachers = np.array([row['teacher'] for row in own])
        intercept, *weights = _solve(inputs, targets)
        scores = _leave_one_out(inputs, targets, teachers)
        errors = targets - scores
        calibration[kind] = dict(
            intercept=round(intercept, 4),
            weights={name: round(weight, 4) for name, weight in zip(sets, weights, strict=True)},
            errors=[round(value, 4) for value in _interval(errors)],
            runs=len({row['run'] for row in own}),
            teachers=len(set(teachers)),
        )
        for row, score, teacher in zip(own, scores, teachers, strict=True):
            low, high = _interval(errors[teachers != teacher])
            predicted, low, high = (1 / (1 + math.exp(-value)) for value in (score, score + low, score + high))
            low, high, number = interval_of(row['probes'], low, high)
            if kind == kind_of(row['probes']):
                judged.append(row | dict(predicted=predicted, low=low, high=high, number=number))
    atomic_write(CALIBRATION, f'{json.dumps(calibration, indent=2)}\n'.encode())
    _print_table(judged)
    _plot(judged)


def _has_statistics(row: dict) -> bool:
    return 'inverted' in row['probes']


def _solve(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Ridge regression towards the mean of all sets."""
    prior = np.array([0.0, *[1 / (inputs.shape[1] - 1)] * (inputs.shape[1] - 1)])
    gram = inputs.T @ inputs + RIDGE * len(targets) * np.eye(len(prior))
    return prior + np.linalg.solve(gram, inputs.T @ (targets - inputs @ prior))


def _leave_one_out(inputs: np.ndarray, targets: np.ndarray, teachers: np.ndarray) -> np.ndarray:
    """Predictions for each teacher by a fit on the others."""
    predicted = np.empty_like(targets)
    for teacher in np.unique(teachers):
        own = teachers == teacher
        predicted[own] = inputs[own] @ _solve(inputs[~own], targets[~own])
    return predicted


def _interval(errors: np.ndarray) -> tuple[float, float]:
    """The ends between which most errors lie, a little wider as they are few (conformal prediction)."""
    share = min(1.0, (1 + COVERAGE) / 2 * (1 + 1 / len(errors)))
    return float(np.quantile(errors, 1 - share)), float(np.quantile(errors, share))


def _print_table(judged: Sequence[dict]) -> None:
    """A markdown table by teacher, each judged by a fit on the others."""
    columns = ('runs', 'checkpoints', 'mean error', 'with a number', 'their error', 'in the 90% interval', 'mean width')
    print(f'| teacher | {" | ".join(columns)} |\n|---|{"---:|" * len(columns)}')
    groups: dict[str, list[dict]] = {}
    for row in judged:
        kind = 'with' if _has_statistics(row) else 'without'
        for group in (row['teacher'], f'all {kind} batch norm'):
            groups.setdefault(group, []).append(row)
    for group, own in groups.items():
        errors = np.array([abs(row['predicted'] - row['truth']) for row in own])
        inside = np.mean([row['low'] <= row['truth'] <= row['high'] for row in own])
        widths = np.array([row['high'] - row['low'] for row in own])
        numbers = np.array([row['number'] for row in own])
        of_numbers = f'{errors[numbers].mean():.3f}' if numbers.any() else ''
        cells = len({row['run'] for row in own}), len(own), f'{errors.mean():.3f}', numbers.sum(), of_numbers
        print(f'| {group} | {" | ".join(map(str, cells))} | {inside:.0%} | {widths.mean():.2f} |')


def _plot(judged: Sequence[dict]) -> None:
    figure = Figure(figsize=(8.5, 6), layout='constrained')
    axis = figure.add_subplot(xlabel='predicted agreement', ylabel='agreement on real test images')
    axis.plot([0, 1], [0, 1], color='grey', linewidth=1)
    for teacher in dict.fromkeys(row['teacher'] for row in judged):
        own = [row for row in judged if row['teacher'] == teacher]
        predicted = np.array([row['predicted'] for row in own])
        ends = np.array([[row['predicted'] - row['low'], row['high'] - row['predicted']] for row in own]).T.clip(0)
        truth = [row['truth'] for row in own]
        axis.errorbar(predicted, truth, xerr=ends, fmt='o', markersize=4, linewidth=0.5, label=teacher)
    figure.legend(fontsize='small', loc='outside right upper')
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT)
