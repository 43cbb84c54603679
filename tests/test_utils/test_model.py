"""Small helpers for modules."""

import pytest
import torch
from torch import nn

from mmdfad.utils.model import classifier_of, upcast


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


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (('conv_seg', 'pam_conv_seg', 'cam_conv_seg'), 'decode_head.conv_seg'),  # DAHead
        (('conv_seg', 'fusion'), 'decode_head.conv_seg'),
        (('layer1', 'fc'), 'decode_head.fc'),
    ],
)
def test_the_classifier_of_a_model(names, expected):
    head = nn.ModuleDict({name: nn.Conv2d(4, 2, 1) for name in names})
    assert classifier_of(nn.ModuleDict(dict(backbone=nn.Linear(4, 4), decode_head=head))) == expected
