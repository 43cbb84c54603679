import math

import numpy as np
import pytest
import torch
from torch import nn

from mmdfad.models import BalancePrior, BNStatisticsPrior, OneHotPrior, TotalVariationPrior
from mmdfad.utils import DistillError


def teacher():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval().requires_grad_(False)


def test_bn_statistics_against_numpy():
    model, prior = teacher(), BNStatisticsPrior()
    images = torch.randn(6, 3, 8, 8, requires_grad=True)
    with prior.watching(model):
        logits = model(images)
    value = prior(logits)
    expected, x = 0.0, images
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            data = x.detach().double().numpy()
            mean, var = data.mean(axis=(0, 2, 3)), data.var(axis=(0, 2, 3))
            expected += np.linalg.norm(module.running_var.numpy() - var)
            expected += np.linalg.norm(module.running_mean.numpy() - mean)
        x = module(x)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert images.grad.abs().sum() > 0


def test_bn_statistics_as_divergence():
    model, prior = teacher(), BNStatisticsPrior(distance='kl')
    images = torch.randn(6, 3, 8, 8)
    with prior.watching(model):
        logits = model(images)
    divergences, x = [], images
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            fakes = torch.distributions.Normal(mean, (var + module.eps).sqrt())
            real = torch.distributions.Normal(module.running_mean, (module.running_var + module.eps).sqrt())
            divergences.append(torch.distributions.kl_divergence(fakes, real).mean())
        x = module(x)
    assert prior(logits).item() == pytest.approx(torch.stack(divergences).mean().item(), rel=1e-5)


@pytest.mark.parametrize(('distance', 'depends'), [('l2', True), ('kl', False)])
def test_divergence_does_not_depend_on_the_scale_before_a_batch_norm(distance, depends):
    prior, images, values = BNStatisticsPrior(distance), torch.randn(6, 3, 8, 8), []
    for scale in (1, 30):
        model = teacher()
        with torch.no_grad():
            model[0].weight *= scale
            model[0].bias *= scale
            model[1].running_mean *= scale
            model[1].running_var *= scale**2
        with prior.watching(model):
            logits = model(images)
        values.append(prior(logits).item())
    assert (values[0] != pytest.approx(values[1], rel=1e-3)) == depends


def test_unknown_distance_is_refused():
    with pytest.raises(DistillError, match="distance of BNStatisticsPrior must be 'l2' or 'kl', but found 'l1'"):
        BNStatisticsPrior(distance='l1')


def test_bn_statistics_watch_only_while_asked_to():
    model, prior = teacher(), BNStatisticsPrior()
    with prior.watching(model):
        model(torch.randn(2, 3, 8, 8))
    model(torch.randn(2, 3, 8, 8))
    assert len(prior._terms) == 2
    assert not any(module._forward_pre_hooks for module in model)


def test_total_variation_against_numpy():
    model, prior = teacher(), TotalVariationPrior()
    images = torch.randn(2, 3, 5, 7, requires_grad=True)
    with prior.watching(model):
        value = prior(model(images))
    data = images.detach().numpy()
    expected = np.abs(np.diff(data, axis=2)).mean() / 2 + np.abs(np.diff(data, axis=3)).mean() / 2
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert images.grad.abs().sum() > 0
    assert not model._forward_pre_hooks


def test_teachers_without_batch_norm_are_refused():
    with (
        pytest.raises(DistillError, match=r'BNStatisticsPrior needs batch norms'),
        BNStatisticsPrior().watching(nn.ReLU()),
    ):
        pass


@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 2, 2)])
def test_one_hot_and_balance_against_numpy(shape):
    logits = torch.randn(shape, dtype=torch.float64)
    p = np.moveaxis(logits.softmax(1).numpy(), 1, -1).reshape(-1, 3)
    assert OneHotPrior()(logits).item() == pytest.approx(-np.log(p.max(axis=1)).mean())
    mean = p.mean(axis=0)
    assert BalancePrior()(logits).item() == pytest.approx((mean * np.log(mean)).sum())


def test_extremes():
    sure = torch.eye(3) * 1e4
    assert OneHotPrior()(sure).item() == 0
    assert BalancePrior()(sure).item() == pytest.approx(-math.log(3))  # all classes alike: the least
    assert BalancePrior()(sure[:1]).item() == pytest.approx(0, abs=1e-5)  # a single class: the most
