"""Small helpers for modules."""

import pytest
import torch

from mmdfad.utils.model import upcast


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_values_are_in_fp32_or_better(given, expected):
    values = torch.tensor([1.5, -2.0], dtype=given)
    assert upcast(values).dtype == expected
    assert upcast(values).tolist() == [1.5, -2.0]
