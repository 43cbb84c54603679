import pytest
import torch

from mmdfad.evaluation import AgreementMetric
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
