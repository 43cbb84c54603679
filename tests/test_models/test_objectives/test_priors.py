"""Priors against independent renderings, and in runs with an accelerated teacher."""

import math

import numpy as np
import pytest
import torch
from conftest import both_tasks, build_model, run
from distillers import assert_refused, build_distiller, noise_for
from test_logits import SEGMENTORS, make
from torch import nn

from mmdfad.acceleration import checkpoint_activations
from mmdfad.models import BalancePrior, BNStatisticsPrior, DeadLeaves, OneHotPrior, SpectrumPrior, TotalVariationPrior
from mmdfad.models.network import Network
from mmdfad.models.step import Output, Step, Tap
from mmdfad.utils import DistillError


def network_of(*layers: nn.Module) -> Network:
    """A teacher of these layers, which gives logits [N, K]."""
    torch.manual_seed(0)
    model = build_model(dict(type='mmdfad.TorchClassifier', factory='torch.nn:Identity'))
    model.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for norm in norms_of(model):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return Network(model, 'teacher').eval().requires_grad_(False)


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def teacher() -> Network:
    torch.manual_seed(0)
    return network_of(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))


def images_for(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def value_of(prior: BNStatisticsPrior, network: Network, images: torch.Tensor) -> torch.Tensor:
    taps = prior.bind(network, network)
    network.install(taps)
    with network.recording(taps):
        return prior(Step(images, None, teacher=network(images)))


def inputs_of_norms(network: Network, images: torch.Tensor) -> list[tuple[nn.BatchNorm2d, torch.Tensor]]:
    pairs, x = [], images
    for module in network.model.model:
        if isinstance(module, nn.BatchNorm2d):
            pairs.append((module, x.detach()))
        x = module(x)
    return pairs


# Batch norm statistics


def test_bn_statistics_against_numpy():
    network, images = teacher(), images_for(6, 3, 8, 8)
    value = value_of(BNStatisticsPrior(), network, images)
    expected = 0.0
    for norm, x in inputs_of_norms(network, images):
        data = x.double().numpy()
        mean, var = data.mean(axis=(0, 2, 3)), data.var(axis=(0, 2, 3))
        expected += np.linalg.norm(norm.running_var.numpy() - var)
        expected += np.linalg.norm(norm.running_mean.numpy() - mean)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert images.grad.abs().sum() > 0


def test_bn_statistics_as_divergence():
    network, images = teacher(), images_for(6, 3, 8, 8)
    divergences = []
    for norm, x in inputs_of_norms(network, images):
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        fakes = torch.distributions.Normal(mean, (var + norm.eps).sqrt())
        real = torch.distributions.Normal(norm.running_mean, (norm.running_var + norm.eps).sqrt())
        divergences.append(torch.distributions.kl_divergence(fakes, real).mean())
    expected = torch.stack(divergences).mean().item()
    value = value_of(BNStatisticsPrior(distance='kl'), network, images)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(('distance', 'depends'), [('l2', True), ('kl', False)])
def test_divergence_does_not_depend_on_the_scale_before_a_batch_norm(distance, depends):
    values = []
    for scale in (1, 30):
        network = teacher()
        convolution, norm = network.model.model[:2]
        with torch.no_grad():
            convolution.weight *= scale
            convolution.bias *= scale
            norm.running_mean *= scale
            norm.running_var *= scale**2
        values.append(value_of(BNStatisticsPrior(distance), network, images_for(6, 3, 8, 8)).item())
    assert (values[0] != pytest.approx(values[1], rel=1e-3)) == depends


def test_bn_statistics_look_at_batch_norms_with_running_statistics():
    network = network_of(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.GroupNorm(1, 3))
    network.model.model[0] = nn.BatchNorm2d(3, track_running_stats=False)
    assert BNStatisticsPrior().bind(network, network) == {Tap('teacher', 'model.2', 'input')}


@pytest.mark.parametrize('name', ['pidnet', 'ddrnet'])
def test_batch_norms_that_only_training_uses_are_left_out(name):
    teacher = Network(make(SEGMENTORS[name], 'mmseg'), 'teacher').eval()
    prior = BNStatisticsPrior()
    taps = prior.bind(teacher, teacher)
    assert len(taps) < len(norms_of(teacher.model))
    teacher.install(taps)
    images = images_for(2, 3, 64, 64)
    with teacher.recording(taps):
        step = Step(images, None, 0, 0.0, teacher(images))
        assert prior(step).isfinite()


def test_unknown_distance_is_refused():
    with pytest.raises(DistillError, match="distance of BNStatisticsPrior must be 'l2' or 'kl', but found 'l1'"):
        BNStatisticsPrior(distance='l1')


def test_teachers_without_batch_norm_are_refused(tiny_cfg):
    message = r'BNStatisticsPrior needs batch norms .* the teacher, which has none; remove it from model.generation'
    assert_refused(
        tiny_cfg,
        message,
        model__teacher__backbone__norm_cfg=dict(type='GN', num_groups=2),
        model__teacher__checkpoint=None,
        model__allow_random_teacher=True,
        model__generation=[dict(type='BNStatisticsPrior')],
    )


@both_tasks
@pytest.mark.parametrize('distance', ['l2', 'kl'])
def test_bn_statistics_are_the_same_with_activation_checkpointing(tiny_cfg, distance):
    """They are measured in the forward pass, and not again where the backward pass repeats it."""
    results = []
    for checkpointed in (False, True):
        distiller, optim = build_distiller(
            tiny_cfg, model__generation=[dict(type='BNStatisticsPrior', distance=distance, weight=2.0)]
        )
        if checkpointed:
            stages = ['backbone.layer1', 'backbone.layer2', 'backbone.layer4']
            checkpoint_activations(distiller.teacher.model, stages, 'key')
        log = distiller.generation_step(noise_for(4), optim['generator'])
        results.append((log['generation_loss'], *(p.detach() for p in distiller.generator.parameters())))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_gradients_of_bn_statistics_pass_through_checkpointed_stages():
    gradients = []
    for checkpointed in (False, True):
        network, images = teacher(), images_for(6, 3, 8, 8)
        network.model.model = nn.Sequential(network.model.model[:5], network.model.model[5:])
        prior = BNStatisticsPrior()
        taps = prior.bind(network, network)
        assert len(taps) == 2
        network.install(taps)
        if checkpointed:
            checkpoint_activations(network.model, ['model.0'], 'key')
        with network.recording(taps):
            value = prior(Step(images, None, teacher=network(images)))
            value.backward()
        gradients.append((value.detach(), images.grad))
    assert gradients[0][1].abs().sum() > 0
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


# Total variation, one-hot and balance


def test_total_variation_against_numpy():
    images = images_for(2, 3, 5, 7)
    prior = TotalVariationPrior()
    assert prior.roles == ()
    assert not prior.bind(None, None)
    value = prior(Step(images, None))
    data = images.detach().numpy()
    expected = np.abs(np.diff(data, axis=2)).mean() / 2 + np.abs(np.diff(data, axis=3)).mean() / 2
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert images.grad.abs().sum() > 0


def haar_contrasts(data: np.ndarray) -> list[float]:
    """The standard deviation within blocks of 2x2, then within blocks of their means, and so on."""
    contrasts = []
    while min(data.shape[2:]) >= 8:
        rows, columns = data.shape[2] // 2, data.shape[3] // 2
        blocks = data[:, :, : 2 * rows, : 2 * columns].reshape(*data.shape[:2], rows, 2, columns, 2)
        contrasts.append(math.sqrt(blocks.var(axis=(3, 5)).mean()))
        data = blocks.mean(axis=(3, 5))
    return contrasts


@pytest.mark.parametrize(('size', 'octaves'), [((32, 48), 3), ((35, 17), 2), ((16, 16), 2)])
def test_spectrum_against_numpy(size, octaves):
    images = images_for(4, 3, *size)
    value = SpectrumPrior(ratio=0.7)(Step(images, None))
    contrasts = haar_contrasts(images.detach().double().numpy())
    assert len(contrasts) == octaves
    ratios = np.array(contrasts[:-1]) / contrasts[1:]
    assert value.item() == pytest.approx(np.square(np.log(ratios / 0.7)).mean(), rel=1e-4)
    value.backward()
    assert images.grad.abs().sum() > 0


def test_the_spectrum_prior_prefers_natural_images_to_smooth_ones_and_to_noise():
    leaves = DeadLeaves(noise_dim=6, image_size=128).sample(
        torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    )
    smooth = nn.functional.interpolate(leaves[:, :, ::16, ::16], (128, 128), mode='bilinear')
    white = images_for(16, 3, 128, 128).detach()
    natural, *others = (SpectrumPrior()(Step(images, None)).item() for images in (leaves, smooth, white))
    assert natural < 0.02
    assert min(others) > 10 * natural


@pytest.mark.parametrize('images', [torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 32, 32)])
def test_the_spectrum_of_small_and_of_constant_images_is_finite(images):
    value = SpectrumPrior()(Step(images.requires_grad_(), None))
    value.backward()
    assert value.isfinite()
    assert SpectrumPrior()(Step(torch.zeros(2, 3, 4, 4), None)) == 0
    assert images.grad.isfinite().all()


@pytest.mark.parametrize('ratio', [0, -1, 1.5])
def test_a_ratio_out_of_its_range_is_named(ratio):
    with pytest.raises(DistillError, match=rf'ratio of SpectrumPrior must be in \(0, 1\], but found {ratio}'):
        SpectrumPrior(ratio=ratio)


def prior_of(prior: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return prior(Step(torch.zeros(len(logits), 3, 4, 4), None, teacher=Output(logits)))


@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 2, 2)])
def test_one_hot_and_balance_against_numpy(shape):
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = np.moveaxis(logits.softmax(1).numpy(), 1, -1).reshape(-1, 3)
    assert prior_of(OneHotPrior(), logits).item() == pytest.approx(-np.log(p.max(axis=1)).mean())
    mean = p.mean(axis=0)
    assert prior_of(BalancePrior(), logits).item() == pytest.approx((mean * np.log(mean)).sum())


def test_extremes():
    sure = torch.eye(3) * 1e4
    assert prior_of(OneHotPrior(), sure).item() == 0
    assert prior_of(BalancePrior(), sure).item() == pytest.approx(-math.log(3))  # all classes equally often: the least
    assert prior_of(BalancePrior(), sure[:1]).item() == pytest.approx(0, abs=1e-5)  # a single class: the most


# In runs, where acceleration is on


@both_tasks
@pytest.mark.parametrize(
    'priors',
    [
        ['TotalVariationPrior'],
        ['SpectrumPrior'],
        ['OneHotPrior'],
        ['BNStatisticsPrior'],
        ['TotalVariationPrior', 'TotalVariationPrior'],
        ['BNStatisticsPrior', 'L1Discrepancy', 'BNStatisticsPrior'],
    ],
    ids='+'.join,
)
def test_priors_run_alone_and_twice_with_a_folded_teacher(tiny_cfg, priors):
    generation = [dict(type=f'mmdfad.{kind}', weight=1.0 + i) for i, kind in enumerate(priors)]
    runner = run(tiny_cfg, model__generation=generation, train_cfg__max_iters=2)
    assert runner.model.teacher.fast.model is not runner.model.teacher.logits
    log = {
        key.removeprefix('train/'): buffer.data[0]
        for key, buffer in runner.message_hub.log_scalars.items()
        if 'generation_' in key
    }
    assert all(len(values) == 2 for values in log.values())
    if len(priors) == 1:
        assert log.keys() == {'generation_loss'}
    elif len(priors) == 2:
        names = ['generation_total_variation', 'generation_total_variation_2']
        assert list(log) == ['generation_loss', *names]
        np.testing.assert_allclose(log[names[0]], log[names[1]])
        np.testing.assert_allclose(log['generation_loss'], 3 * log[names[0]], rtol=1e-5)
    else:
        first, second = log['generation_bn_statistics'], log['generation_bn_statistics_2']
        np.testing.assert_allclose(first, second)
        np.testing.assert_allclose(log['generation_loss'], first - 2 * log['generation_l1'] + 3 * second, rtol=1e-4)
