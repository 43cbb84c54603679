import pytest
import torch

from mmdfad.evaluation import AgreementMetric, PredictedAgreementMetric, predict_agreement
from mmdfad.utils import DistillError


def test_share_of_images_and_pixels():
    metric = AgreementMetric()
    metric.process(
        None,
        [
            dict(student_label=torch.tensor(1), teacher_label=torch.tensor(1)),
            dict(student_label=torch.tensor(1), teacher_label=torch.tensor(2)),
            dict(student_label=torch.tensor([[1, 2], [3, 4]]), teacher_label=torch.tensor([[1, 2], [3, 0]])),
        ],
    )
    assert metric.evaluate(3) == dict(agreement=pytest.approx(4 / 6))


def test_missing_labels_are_explained():
    with pytest.raises(DistillError, match=r'model.val_agreement=True'):
        AgreementMetric().process(None, [dict(pred_label=1)])


def samples(labels, **extra):
    return [dict(student_label=torch.tensor(a), teacher_label=torch.tensor(b), **extra) for a, b in labels]


def test_probe_images_count_for_the_prediction_only():
    batch = [
        *samples([(1, 1), (1, 2)]),
        *samples([(0, 0), (1, 1), (2, 1)], probe='leaves'),
        *samples([([[1, 2]], [[1, 2]]), ([[1, 2]], [[1, 0]])], probe='inverted'),
    ]
    agreement, predicted = AgreementMetric(), PredictedAgreementMetric()
    for metric in (agreement, predicted):
        metric.process(None, batch)
    assert agreement.evaluate(2) == dict(agreement=0.5)
    found = predicted.evaluate(2)
    expected = predict_agreement(dict(leaves=2 / 3, inverted=3 / 4))
    assert found == {
        'predicted_agreement': pytest.approx(expected.fitted),
        'predicted_agreement_low': pytest.approx(expected.low),
        'predicted_agreement_high': pytest.approx(expected.high),
        'agreement/leaves': pytest.approx(2 / 3),
        'agreement/inverted': pytest.approx(3 / 4),
    }


def test_a_prediction_needs_probe_images():
    metric = PredictedAgreementMetric()
    metric.process(None, samples([(1, 1)]))
    with pytest.raises(DistillError, match=r"type='mmdfad.ProbeDataset'"):
        metric.evaluate(1)


@pytest.mark.parametrize('others', [dict(), dict(sure=0.9), dict(inverted=0.9)], ids=['leaves', 'sure', 'inverted'])
def test_a_prediction_grows_with_the_agreement_on_probe_images(others):
    shares = [0.0, 0.1, 0.5, 0.9, 1.0]
    found = [predict_agreement(dict.fromkeys(('leaves', *others), share)) for share in shares]
    assert [p.fitted for p in found] == sorted(p.fitted for p in found)
    assert all(0 <= p.low <= p.fitted <= p.high <= 1 for p in found)
    assert found[0].fitted < 0.5 < found[-1].fitted
    assert all('other teachers' in p.reason for p in found)


def test_a_wide_interval_has_no_point():
    for probes in (dict(leaves=0.9), dict(sure=0.5), dict(leaves=0.5, inverted=0.5)):
        found = predict_agreement(probes)
        assert found.value is None
        assert found.high - found.low > 0.25


def test_dead_leaves_alone_give_no_point():
    """What little is known of a segmentor without batch norm is a range."""
    for leaves in (0.9, 0.97):
        found = predict_agreement(dict(leaves=leaves))
        assert found.value is None
        assert 'without batch norm statistics' in found.reason
    sure = predict_agreement(dict(leaves=0.95, inverted=0.97))
    assert sure.low <= sure.value <= sure.high
    assert 'batch norm' not in sure.reason


def test_probe_images_that_disagree_leave_a_range():
    """As of the students whose predictions were furthest from the truth: see docs/prediction.md."""
    found = predict_agreement(dict(inverted=0.43, leaves=0.91))
    assert found.value is None
    assert (found.low, found.high) == (0, 0.91)
    assert 'the probe images disagree' in found.reason
    near = predict_agreement(dict(inverted=0.83, leaves=0.91))
    assert near.value is not None
    assert near.low > 0.5
