"""Discrepancies against independent renderings in numpy."""

import math

import numpy as np
import pytest
import torch

from mmdfad.models import KLDiscrepancy, L1Discrepancy, LogL1Discrepancy, MSEDiscrepancy
from mmdfad.models.step import Output, Step
from mmdfad.utils import DistillError


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl(s, t, temperature, only_agreed=False):
    p, q = softmax(t / temperature), softmax(s / temperature)
    divergences = (p * np.log(p / q)).sum(axis=1)
    if only_agreed:
        divergences = np.where(s.argmax(axis=1) == t.argmax(axis=1), divergences, 0)
    return divergences.mean() * temperature**2


CASES = [
    (L1Discrepancy(), lambda s, t: np.abs(s - t).mean()),
    (LogL1Discrepancy(), lambda s, t: math.log(1 + np.abs(s - t).mean())),
    (MSEDiscrepancy(), lambda s, t: ((s - t) ** 2).mean()),
    (KLDiscrepancy(), lambda s, t: kl(s, t, 1)),
    (KLDiscrepancy(temperature=4), lambda s, t: kl(s, t, 4)),
    (KLDiscrepancy(temperature=2, only_agreed=True), lambda s, t: kl(s, t, 2, only_agreed=True)),
]


@pytest.mark.parametrize('shape', [(4, 10), (1, 2), (2, 11, 3, 5)])
@pytest.mark.parametrize(('discrepancy', 'expected'), CASES)
def test_against_numpy(discrepancy, expected, shape):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator) * 3 for _ in range(2))
    value = discrepancy.compare(student, teacher)
    assert value.shape == ()
    assert value.item() == pytest.approx(expected(student.double().numpy(), teacher.double().numpy()), rel=1e-5)


def test_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    assert L1Discrepancy().compare(student, teacher).item() == 1.0
    assert MSEDiscrepancy().compare(student, teacher).item() == 1.5
    assert LogL1Discrepancy().compare(student, teacher).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(('discrepancy', '_'), CASES)
def test_zero_for_equal_logits_and_gradients_to_both(discrepancy, _):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(20, 3, generator=generator).requires_grad_() for _ in range(2))
    assert discrepancy.compare(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    discrepancy.compare(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad.abs().sum() > 0


@pytest.mark.parametrize(('discrepancy', '_'), CASES)
def test_the_logits_of_a_step_are_compared(discrepancy, _):
    student, teacher = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    step = Step(torch.zeros(2, 3, 4, 4), None, teacher=Output(teacher), student=Output(student))
    assert torch.equal(discrepancy(step), discrepancy.compare(student, teacher))


def test_only_agreed_labels_count():
    student, teacher = torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    agreed = KLDiscrepancy(only_agreed=True).compare(student, teacher)
    assert agreed.item() == pytest.approx(KLDiscrepancy().compare(student[:1], teacher[:1]).item() / 2)
    assert KLDiscrepancy(only_agreed=True).compare(student[1:], teacher[1:]) == 0


def test_kl_is_finite_for_extreme_logits():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert KLDiscrepancy().compare(student, teacher).isfinite()


def test_bad_temperature():
    with pytest.raises(DistillError, match='temperature of KLDiscrepancy must be positive, but found 0'):
        KLDiscrepancy(temperature=0)
