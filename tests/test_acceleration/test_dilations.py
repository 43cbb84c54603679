"""Optimized dilated convolutions compute what plain ones do."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmdfad.acceleration import optimize_dilated_convs


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (12, 12), (13, 24), (25, 40)])
@pytest.mark.parametrize(
    'settings',
    [
        dict(kernel_size=3, dilation=12, padding=12),
        dict(kernel_size=5, dilation=(4, 6), padding=(8, 12)),
        dict(kernel_size=3, dilation=6, padding=6, groups=4),
        dict(kernel_size=3, dilation=(2, 4), padding=(2, 4), groups=4, out_channels=4),
        dict(kernel_size=(5, 3), dilation=(1, 2), padding=(2, 2), groups=4, bias=False),
        dict(kernel_size=(1, 7), dilation=(1, 3), padding=(0, 9)),
        dict(kernel_size=3, dilation=4, padding=7),
        dict(kernel_size=3, dilation=4, padding=7, groups=4),
    ],
)
def test_optimized_convolutions_compute_the_same(settings, size):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, **{'out_channels': 8, **settings}).double()
    optimized = copy.deepcopy(plain)
    optimize_dilated_convs(optimized)
    optimized = copy.deepcopy(optimized)  # as averaged models are
    images = torch.randn(2, 4, *size, dtype=torch.double)
    results = []
    for convolution in (plain, optimized):
        inputs = images.clone().requires_grad_()
        output = convolution(inputs)
        output.square().sum().backward()
        results.append((output, inputs.grad, *(p.grad for p in convolution.parameters())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert optimized.state_dict().keys() == plain.state_dict().keys()


class Convolutions(TorchDispatchMode):
    """Collects the dilations and the kernel sizes of convolutions."""

    def __init__(self):
        super().__init__()
        self.dilations, self.kernels = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.dilations.append(tuple(args[5]))
            self.kernels.append(tuple(args[1].shape[2:]))
        return func(*args, **(kwargs or {}))


def test_depthwise_convolutions_learn_without_dilation():
    images = torch.randn(2, 4, 12, 12)
    for groups, training, gradients, dilation in (
        (4, True, True, (1, 1)),
        (4, False, True, (3, 3)),
        (4, True, False, (3, 3)),
        (2, True, True, (3, 3)),
    ):
        convolution = nn.Conv2d(4, 4, 3, dilation=3, padding=3, groups=groups).train(training)
        optimize_dilated_convs(convolution, only_in_training=True)
        with Convolutions() as found, torch.set_grad_enabled(gradients):
            convolution(images)
        assert found.dilations == [dilation]


@pytest.mark.parametrize(('training', 'kernel'), [(True, (1, 1)), (False, (3, 3))])
def test_taps_that_see_only_padding_are_left_out(training, kernel):
    convolution = nn.Conv2d(4, 4, 3, dilation=12, padding=12).train(training)
    optimize_dilated_convs(convolution, only_in_training=True)
    with Convolutions() as found:
        convolution(torch.randn(2, 4, 12, 12))
    assert found.kernels == [kernel]


@pytest.mark.parametrize(
    'settings', [dict(dilation=1), dict(dilation=2, stride=2), dict(dilation=2, padding_mode='reflect')]
)
def test_other_convolutions_are_left_alone(settings):
    convolution = nn.Conv2d(4, 4, 3, **{'padding': 2, **settings})
    optimize_dilated_convs(convolution)
    assert '_conv_forward' not in vars(convolution)
