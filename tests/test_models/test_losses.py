import math

import numpy as np
import pytest
import torch

from mmdfad.models import KLDiscrepancy, L1Discrepancy, LogL1Discrepancy, MSEDiscrepancy
from mmdfad.utils import DistillError


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl(s, t, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    return (p * np.log(p / q)).sum(axis=1).mean() * temperature**2


CASES = [
    (L1Discrepancy(), lambda s, t: np.abs(s - t).mean()),
    (LogL1Discrepancy(), lambda s, t: math.log(1 + np.abs(s - t).mean())),
    (MSEDiscrepancy(), lambda s, t: ((s - t) ** 2).mean()),
    (KLDiscrepancy(), lambda s, t: kl(s, t, 1)),
    (KLDiscrepancy(temperature=4), lambda s, t: kl(s, t, 4)),
]


@pytest.mark.parametrize('shape', [(4, 10), (1, 2), (2, 11, 3, 5)])
@pytest.mark.parametrize(('loss', 'expected'), CASES)
def test_against_numpy(loss, expected, shape):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator) * 3 for _ in range(2))
    value = loss(student, teacher)
    assert value.shape == ()
    assert value.item() == pytest.approx(expected(student.double().numpy(), teacher.double().numpy()), rel=1e-5)


def test_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    assert L1Discrepancy()(student, teacher).item() == 1.0
    assert MSEDiscrepancy()(student, teacher).item() == 1.5
    assert LogL1Discrepancy()(student, teacher).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(('loss', '_'), CASES)
def test_zero_where_they_agree_and_gradients_to_both(loss, _):
    student = torch.randn(3, 5, requires_grad=True)
    teacher = torch.randn(3, 5, requires_grad=True)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad.abs().sum() > 0


def test_kl_is_finite_for_extreme_logits():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert KLDiscrepancy()(student, teacher).isfinite()


def test_bad_temperature():
    with pytest.raises(DistillError, match='temperature of KLDiscrepancy must be positive, but found 0'):
        KLDiscrepancy(temperature=0)
