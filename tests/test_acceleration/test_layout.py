"""Channels last, where a model can compute in it."""

import copy

import pytest
import torch
from torch import nn

from mmdfad.acceleration import supports_channels_last, to_channels_last, train_in_channels_last

LAST = torch.channels_last


class MergingView(nn.Module):
    """As DMNet's dynamic convolutions: batch and channels become one axis, which needs features with channels first."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.view(1, -1, *features.shape[2:])


CASES = pytest.mark.parametrize(
    ('width', 'last', 'supported'), [(16, nn.Identity(), True), (8, nn.Identity(), False), (16, MergingView(), False)]
)


def model_of(width: int, last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 1, stride=2), last)


@CASES
def test_channels_last_unless_it_would_crash(width, last, supported):
    model = model_of(width, last)
    images = torch.randn(2, 3, 9, 9)
    expected = model(images)
    assert supports_channels_last(model, images) == supported
    to_channels_last(model, images)
    torch.testing.assert_close(model(images), expected)
    assert supports_channels_last(model, images) == supported
    assert model[0].weight.is_contiguous(memory_format=LAST) == supported


@CASES
def test_training_in_channels_last_changes_no_weight_and_no_prediction(width, last, supported):
    plain = model_of(width, last)
    model = copy.deepcopy(plain)
    images = torch.randn(2, 3, 9, 9)
    train_in_channels_last(model, images)
    layouts = []
    model[0].register_forward_pre_hook(lambda m, inputs: layouts.append(inputs[0].is_contiguous(memory_format=LAST)))
    torch.testing.assert_close(model.train()(images), plain(images))
    assert torch.equal(model.eval()(images), plain(images))
    assert layouts == [supported, False]
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_models_of_noise_can_be_tried_on_noise():
    model = nn.Sequential(nn.Linear(4, 16 * 9), nn.Unflatten(1, (16, 3, 3)), nn.Conv2d(16, 16, 3))
    to_channels_last(model, torch.randn(2, 4))
    assert model[2].weight.is_contiguous(memory_format=LAST)
