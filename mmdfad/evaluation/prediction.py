"""From agreement on probe images to agreement on real images, as calibrated on pairs of teachers and students."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

CALIBRATION = Path(__file__).with_name('calibration.json')
# Shares of 0 and 1 have no logit. Probe sets have hundreds of images.
SMALLEST = 0.002
# An interval that is wider leaves too much open for a number.
WIDEST = 0.25
# Where a student agrees so much more often on images far from the teacher's statistics than on near ones, the
# prediction was wrong by up to 55 points.
DISAGREEMENT = 0.2


@dataclass(frozen=True)
class Prediction:
    """What is known without data about how often a student agrees with its teacher on real images.

    Attributes:
        value (float, optional): The expected share of images, or pixels, with the same label, in [0, 1]. None if there
            is only a range.
        fitted (float): What the fit gives, also where there is only a range: to compare students of one run.
        low (float): Lower end of the 90% interval.
        high (float): Upper end.
        reason (str): What it rests on, in a sentence.
        probes (dict[str, float]): The agreement on each set of probe images.
    """

    value: float | None
    fitted: float
    low: float
    high: float
    reason: str
    probes: dict[str, float] = field(default_factory=dict)


def predict_agreement(probes: Mapping[str, float]) -> Prediction:
    """Predict the agreement on real images.

    The prediction is linear in the logits of the agreement on probe images. ``tools/analysis_tools/calibrate.py`` has
    fitted it, and its interval, on runs of mmdfad: it holds for students that were distilled without data.

    Args:
        probes (Mapping[str, float]): The agreement on each set of :class:`~mmdfad.models.Probes`.
    """
    kind = kind_of(probes)
    model = _calibration()[kind]
    score = model['intercept'] + sum(w * logit(probes[name]) for name, w in model['weights'].items())
    fitted, low, high = (1 / (1 + math.exp(-score - error)) for error in (0, *model['errors']))
    low, high, certain = interval_of(probes, low, high)
    if disagree(probes):
        why = (
            "the probe images disagree: the student labels dead leaves, which are far from the teacher's statistics, "
            'much more often like the teacher than images near to them. Such students were good or bad'
        )
        return Prediction(None, fitted, low, high, why, {**probes})
    rests = f'in {model["runs"]} runs with {model["teachers"]} other teachers'
    if certain:
        return Prediction(fitted, fitted, low, high, f'{rests}, students like this one were in this range', {**probes})
    why = 'without batch norm statistics of the teacher, little is known about its real images; ' * (kind != 'inverted')
    return Prediction(None, fitted, low, high, f'{why}{rests}, students like this one varied this much', {**probes})


def kind_of(probes: Collection[str]) -> str:
    """The set of probe images that says most, by which teachers are told apart."""
    return next(name for name in ('inverted', 'sure', 'leaves') if name in probes)


def interval_of(probes: Mapping[str, float], low: float, high: float) -> tuple[float, float, bool]:
    """The interval that is given for one of the fit: its ends, and whether it leaves a number.

    Args:
        probes (Mapping[str, float]): The agreement on each set of probe images.
        low (float): Lower end by the fit.
        high (float): Upper end by the fit.
    """
    if disagree(probes):
        return 0.0, max(high, probes['leaves']), False
    return low, high, kind_of(probes) != 'leaves' and high - low <= WIDEST  # dead leaves alone say too little


def disagree(probes: Mapping[str, float]) -> bool:
    """Whether the sets of probe images contradict each other, so that nothing can be predicted from them."""
    return 'inverted' in probes and probes['leaves'] - probes['inverted'] > DISAGREEMENT


def logit(share: float) -> float:
    """The logit of a share that is a little away from 0 and 1."""
    share = min(max(share, SMALLEST), 1 - SMALLEST)
    return math.log(share / (1 - share))


@cache
def _calibration() -> dict[str, dict]:
    return json.loads(CALIBRATION.read_text())
