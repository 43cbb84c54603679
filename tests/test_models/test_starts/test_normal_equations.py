"""Least squares from sums, against closed forms on all samples at once."""

import math

import pytest
import torch

from mmdfad.models.starts.normal_equations import ChannelEquations, NormalEquations

CPU = torch.device('cpu')


def samples(count, *sizes, seed=0):
    return torch.randn(count, *sizes, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def fitted(equations, x, y, ridge=0.0, chunk=7):
    for rows in zip(x.split(chunk), y.split(chunk), strict=True):
        equations.add(*rows)
    return equations.solve(ridge)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('ridge', [0.0, 0.1])
def test_ridge_regression_of_each_group(bias, ridge):
    """As least squares with rows for the penalty, and a column of ones without one."""
    x, y = samples(50, 3, 4) + 1, samples(50, 3, 2, seed=1) - 2
    solution = fitted(NormalEquations(3, 4, 2, bias, CPU), x, y, ridge)
    left = 0
    for group in range(3):
        inputs, targets = x[:, group], y[:, group]
        penalty = (ridge * inputs.square().sum(0).mean()).sqrt() * torch.eye(4).double()
        ones = torch.ones(50, 1).double() if bias else torch.zeros(50, 0).double()
        rows = torch.cat([torch.cat([inputs, ones], 1), torch.cat([penalty, 0 * ones[:4]], 1)])
        expected = torch.linalg.lstsq(rows, torch.cat([targets, torch.zeros(4, 2).double()])).solution
        torch.testing.assert_close(solution.weight[group], expected[:4].T)
        torch.testing.assert_close(solution.bias[group], expected[4] if bias else torch.zeros(2).double())
        outputs = inputs @ expected[:4]
        torch.testing.assert_close(solution.mean[group], outputs.mean(0))
        torch.testing.assert_close(solution.var[group], outputs.var(0, correction=0))
        left += (rows[:50] @ expected - targets).square().sum()
    assert solution.error == pytest.approx(float(left / (y - y.mean(0)).square().sum()))


def test_few_samples_get_the_penalty_that_predicts_the_other_half_best():
    x, y = samples(20, 1, 12), samples(20, 1, 1, seed=1)
    halves = (x[:10], y[:10]), (x[10:], y[10:])
    errors = {}
    for ridge in (0.01, 0.1, 1, 10):
        pairs = (halves, halves[::-1])
        errors[ridge] = sum(
            (inputs[:, 0] @ s.weight[0].T + s.bias[0] - targets[:, 0]).square().sum().item()
            for known, (inputs, targets) in pairs
            for s in [fitted(NormalEquations(1, 12, 1, True, CPU), *known, ridge, chunk=10)]
        )
    best = min(errors, key=errors.get)
    assert best != 0.01
    expected = fitted(NormalEquations(1, 12, 1, True, CPU), x, y, best)
    equations = NormalEquations(1, 12, 1, True, CPU)
    for fold, half in enumerate(halves):
        equations.add(*half, fold)
    torch.testing.assert_close(equations.solve(0.01).weight, expected.weight)
    assert not equations.solve(0).weight.allclose(expected.weight)  # without a penalty nothing is chosen


def test_memory_is_that_of_the_sums():
    equations = NormalEquations(1, 3, 2, True, CPU)

    def sizes():
        return [v.numel() for fold in equations.folds for v in vars(fold).values() if isinstance(v, torch.Tensor)]

    before = sizes()
    equations.add(samples(100, 1, 3), samples(100, 1, 2))
    assert sizes() == before


def test_inputs_that_depend_on_each_other():
    x = samples(20, 1, 2)
    x = torch.cat([x, x], 2)
    y = x.sum(2, keepdim=True)
    solution = fitted(NormalEquations(1, 4, 1, False, CPU), x, y)
    torch.testing.assert_close(solution.weight.flatten(), torch.ones(4).double())


def test_inputs_that_are_always_zero():
    solution = fitted(NormalEquations(2, 3, 1, True, CPU), torch.zeros(9, 2, 3), torch.full((9, 2, 1), 4.0), 0.01)
    assert not solution.weight.any()
    assert solution.bias.flatten().tolist() == [4, 4]
    assert solution.error == 0  # the targets do not vary


@pytest.mark.parametrize(('bias', 'scale'), [(True, True), (False, True), (True, False)])
def test_a_factor_and_an_offset_of_each_channel(bias, scale):
    x, y = samples(30, 3) + 1, samples(30, 3, seed=1)
    solution = fitted(ChannelEquations(3, bias, scale, CPU), x, y)
    for channel in range(3):
        columns = [x[:, channel]] * scale + [torch.ones(30).double()] * bias
        targets = y[:, channel] - (0 if scale else x[:, channel])
        expected = torch.linalg.lstsq(torch.stack(columns, 1), targets[:, None]).solution.flatten()
        found = [solution.weight[channel, 0, 0]] * scale + [solution.bias[channel, 0]] * bias
        torch.testing.assert_close(torch.stack(found), expected)
        if not scale:
            assert solution.weight[channel] == 1
    outputs = solution.weight.flatten() * x + solution.bias.flatten()
    assert solution.error == pytest.approx(float((outputs - y).square().sum() / (y - y.mean(0)).square().sum()))


def test_a_channel_that_does_not_vary():
    x, y = torch.full((8, 1), 3.0), samples(8, 1)
    solution = fitted(ChannelEquations(1, True, True, CPU), x, y)
    assert solution.weight.item() == 0
    assert solution.bias.item() == pytest.approx(y.mean().item())


def test_inputs_that_are_not_finite_have_no_solution():
    """Not an error of the decomposition: the layer of this input keeps its weights."""
    x, y = samples(20, 2, 3), samples(20, 2, 1, seed=1)
    x[3, 1, 2] = float('nan')
    solution = fitted(NormalEquations(2, 3, 1, True, CPU), x, y)
    assert math.isnan(solution.error)
