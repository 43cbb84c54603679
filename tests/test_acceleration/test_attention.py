"""Attention in fp32 where gradients are needed."""

import copy

import pytest
import torch
from mmpretrain.models import VisionTransformer
from torch import nn

from mmdfad.acceleration import attend_in_float32


@pytest.fixture
def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    plain = VisionTransformer(arch=arch, img_size=16, patch_size=4, out_type='cls_token')
    changed = copy.deepcopy(plain)
    attend_in_float32(changed)
    return plain, changed


class Calls(torch.overrides.TorchFunctionMode):
    """The types in which attention is computed."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.scaled_dot_product_attention:
            self.dtypes.append((args[0].dtype, torch.is_autocast_enabled('cpu')))
        return function(*args, **(kwargs or {}))


def outputs(model, images, dtype=torch.bfloat16):
    with torch.autocast('cpu', dtype, enabled=dtype is not None), Calls() as calls:
        return model(images)[0], set(calls.dtypes)


def test_gradients_are_computed_in_fp32(models):
    images, gradients = torch.randn(3, 3, 16, 16), []
    for model in models:
        found, dtypes = outputs(model, images)
        assert dtypes == ({(torch.float32, False)} if model is models[1] else {(torch.bfloat16, True)})
        found.float().square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    plain, changed = gradients
    assert (plain - changed).norm() < 0.03 * plain.norm()


def test_frozen_models_with_gradients_of_images(models):
    images = torch.randn(3, 3, 16, 16, requires_grad=True)
    assert outputs(models[1].requires_grad_(False), images)[1] == {(torch.float32, False)}


def test_without_gradients_nothing_changes(models):
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        (plain, _), (changed, dtypes) = (outputs(model, images) for model in models)
    assert torch.equal(plain, changed)
    assert dtypes == {(torch.bfloat16, True)}


def test_in_fp32_nothing_changes(models):
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(*(outputs(model, images, None)[0] for model in models))
