"""Lower precision where no gradient is computed."""

import copy

import pytest
import torch
from mmcv.cnn.bricks import wrappers
from torch import nn

from mmdfad.acceleration import cast_weights, computing_dtype, sample_in
from mmdfad.models import UpsampleGenerator


def model_of() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), wrappers.Conv2d(8, 8, 3, bias=False)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 5)).eval()


def test_cast_weights_give_the_same_logits_to_the_bit():
    model = model_of()
    images = torch.randn(4, 3, 8, 8)
    cast = copy.deepcopy(model)
    cast_weights(cast, torch.bfloat16)
    dtypes = [p.dtype for p in cast.parameters()]
    half, full = torch.bfloat16, torch.float32  # the latter for the batch norm
    assert dtypes == [half, half, full, full, half, half, half]
    assert not any(p.requires_grad for p in cast[0].parameters())
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(cast(images), model(images))


def test_weights_that_another_model_shares_keep_their_type():
    model = model_of()
    shared = {id(p): p for p in model.parameters()}
    cast = copy.deepcopy(model, shared)
    cast_weights(cast, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert cast[0].weight.dtype == torch.bfloat16


class Doubled(nn.Conv2d):
    """Does something else with its weights than autocast expects."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.weight + self.weight, self.bias)


def test_layers_of_other_classes_are_left_alone():
    model = nn.Sequential(Doubled(3, 4, 3))
    cast_weights(model, torch.bfloat16)
    assert model[0].weight.dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_computing_dtype_is_that_of_autocast(dtype):
    assert computing_dtype('cpu') == torch.float32
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        assert computing_dtype('cpu') == dtype
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert computing_dtype('cpu') == torch.float32


def test_only_samples_in_training_are_made_in_another_type():
    generator = UpsampleGenerator(noise_dim=4, image_size=8, width=8)
    dtypes = []
    generator.decoder[1].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    noise = torch.randn(2, 4)
    exact = generator(noise)
    sample_in(generator, torch.bfloat16, 'cpu')
    images = generator.sample(noise)
    assert torch.equal(generator(noise), exact)
    generator.eval().sample(noise)
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert not images.requires_grad
    assert (images - exact).norm() / exact.norm() < 5e-2
