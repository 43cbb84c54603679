"""The result of a run in a sentence."""

from mmdfad.evaluation.prediction import Prediction

# Metrics that stand for a network, best known first.
_MAIN = ('accuracy/top1', 'mIoU')
_TITLES = {'accuracy/top1': 'top-1 accuracy'}


def verdict(prediction: Prediction | None, generated: dict | None, real: dict | None, unit: str) -> str:
    """How good the student is, in a sentence.

    Args:
        prediction (Prediction, optional): The predicted agreement on real images.
        generated (dict, optional): ``agreement`` on so many (``count``) generated images; ``adversarial``, whether they
            were made for the networks to differ.
        real (dict, optional): ``agreement`` on the validation data, if it was measured.
        unit (str): What is labelled: ``'images'`` or ``'pixels'``.
    """
    if real is not None and real['agreement'] is not None:
        share = percent(real['agreement'])
        return f"On the validation data, the student gives the teacher's label to {share} of the {unit}."
    if prediction is not None:
        interval = f'{percent(prediction.low)} to {percent(prediction.high)}'
        if prediction.value is None:
            between = f'between {percent(prediction.low)} and {percent(prediction.high)}'
            return f"On real data, the student is predicted to give the teacher's label to {between} of the {unit}."
        share = percent(prediction.value)
        return (
            f"On real data, the student is predicted to give the teacher's label to {share} of the {unit} "
            f'(90% interval: {interval}).'
        )
    if generated is None:
        return 'Teacher and student were not compared.'
    share, images = percent(generated['agreement']), f'{generated["count"]:,} generated images'
    what = images if unit == 'images' else f'the pixels of {images}'
    hint = 'made so that the two disagree' if generated['adversarial'] else 'expect less on real images'
    said = f"the student gives the teacher's label to {share} of {what} ({hint})"
    return f'No prediction for real images is available: {said}.'


def main_metric(names: list[str]) -> str | None:
    """The metric that stands for a network."""
    return next((name for name in (*_MAIN, *names) if name in names), None)


def metric_title(name: str) -> str:
    """What people call a metric."""
    return _TITLES.get(name, name)


def percent(share: float) -> str:
    """A share in [0, 1] as percent. It is 100% only if nothing is missing."""
    return f'{share:.0%}' if share in (0, 1) else f'{min(max(share, 0.001), 0.999):.1%}'
