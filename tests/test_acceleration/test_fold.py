"""Folded models give the logits of the exact ones."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.acceleration import fold_norms
from mmdfad.models.build import build_model, plain_config
from mmdfad.models.logits import as_logits
from mmdfad.utils.state_dict import weights_sha256


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def trained(model: nn.Module) -> nn.Module:
    """Statistics and scales as of a trained model: no two channels alike."""
    torch.manual_seed(0)
    for norm in norms_of(model):
        nn.init.normal_(norm.running_mean, 0, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ('config', 'size', 'left'),
    [
        ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', 32, 0),
        ('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 32, 0),
        ('mmpretrain::densenet/densenet121_4xb256_in1k.py', 32, 62),  # many of its norms come before a convolution
        ('mmpretrain::repvgg/repvgg-A0_8xb32_in1k.py', 32, 0),
        ('mmpretrain::mobileone/mobileone-s0_8xb32_in1k.py', 32, 0),
        ('mmpretrain::levit/levit-128s_8xb256_in1k.py', 224, 0),
        ('mmpretrain::riformer/riformer-s12_8xb128_in1k.py', 64, 0),  # has none, but can be reparameterised
        ('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', 64, None),
    ],
)
def test_folded_models_give_the_same_logits(config, size, left):
    teacher = trained(as_logits(build_model(plain_config(dict(cfg_path=config), 'teacher'), 'teacher')))
    weights = weights_sha256(teacher.model)
    images = torch.randn(2, 3, size, size)
    folded = fold_norms(teacher, images)
    assert folded is not teacher
    if left is not None:
        assert len(norms_of(folded)) == left
    images = torch.randn(2, 3, size, size)
    exact = teacher(images)
    torch.testing.assert_close(folded(images), exact, rtol=0, atol=1e-5 * exact.abs().max().item())
    assert weights == weights_sha256(teacher.model)
    assert not any(m.training for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())


class Twigs(nn.Module):
    """Convolutions and batch norms in ways that a fold must not touch, and one that it may."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.shared = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.norms[0](self.once(images))
        second = self.norms[1](self.twice(images)) + self.norms[2](self.twice(images + 1))
        shared = self.shared(images)
        third = self.norms[3](shared) + self.norms[4](shared)
        return (first + second + third).mean((2, 3))


def test_only_pairs_of_one_convolution_and_one_norm_are_folded():
    model = trained(Twigs())
    images = torch.randn(2, 3, 8, 8)
    folded = fold_norms(model, images)
    assert [isinstance(m, nn.Identity) for m in folded.norms] == [True, False, False, False, False]
    assert folded.twice.weight is model.twice.weight  # what is not folded is shared
    assert folded.once.weight is not model.once.weight
    torch.testing.assert_close(folded(images), model(images))


class Peeking(nn.Module):
    """Also uses what comes before the batch norm. The fold cannot see that from the modules alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images)
        return (features + self.norm(features)).mean((2, 3))


class InPlace(nn.Module):
    """The output of the second convolution changes in place before its batch norm, as in pre-activation ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.second_norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.second(self.first_norm(self.first(images)))
        features += images
        return self.second_norm(features).mean((2, 3))


def test_an_output_that_changes_in_place_is_not_folded():
    model = trained(InPlace())
    images = torch.randn(2, 3, 8, 8)
    folded = fold_norms(model, images)
    assert isinstance(folded.first_norm, nn.Identity)
    assert isinstance(folded.second_norm, nn.BatchNorm2d)
    torch.testing.assert_close(folded(images), model(images))


def test_folds_that_are_wrong_are_not_used(caplog):
    model = trained(Peeking())
    logger = MMLogger.get_instance('folds', log_level='INFO')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        assert fold_norms(model, torch.randn(2, 3, 8, 8)) is model
    assert 'The teacher is not folded: its logits would be off by' in caplog.text


def test_models_without_batch_norm_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert fold_norms(model, torch.randn(2, 3, 8, 8)) is model


class Uncopyable(nn.Sequential):
    def __deepcopy__(self, memo: dict) -> None:
        raise RuntimeError('cannot be copied')


def test_models_that_cannot_be_copied_stay_as_they_are(caplog):
    model = Uncopyable(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    logger = MMLogger.get_instance('uncopyable', log_level='INFO')
    logger.addHandler(caplog.handler)
    assert fold_norms(model, torch.randn(2, 3, 8, 8)) is model
    assert 'The teacher is not folded: RuntimeError: cannot be copied' in caplog.text


def test_hooks_of_parts_that_stay_are_copied():
    """They record features of the folded teacher."""
    model = trained(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.ReLU()))
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(2, 3, 8, 8)
    folded = fold_norms(model, images)
    seen.clear()
    folded(images)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], model[0](images))
