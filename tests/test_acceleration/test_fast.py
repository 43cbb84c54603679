"""When a faster form may stand in for the exact model."""

import copy

import pytest
import torch
from torch import nn

from mmdfad.acceleration import FastForm, cast_weights, fold_norms
from mmdfad.acceleration.fast import changed_modules
from mmdfad.models.step import Tap


class Logits(nn.Module):
    """A plain model as its ``model``, like the adapters of mmdfad."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).mean((2, 3))


def exact_model() -> Logits:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    norm = block[1]
    nn.init.normal_(norm.running_mean)
    return Logits(nn.Sequential(block, nn.Conv2d(4, 5, 1))).eval().requires_grad_(False)


def fast_form(dtype: torch.dtype | None = None) -> tuple[FastForm, Logits]:
    exact = exact_model()
    return FastForm(fold_norms(exact, torch.randn(2, 3, 8, 8)), exact, dtype), exact


def test_a_fold_changes_the_convolution_and_the_norm_only():
    fast, exact = fast_form()
    assert changed_modules(exact.model, fast.model.model) == {'0.0', '0.1'}
    assert changed_modules(exact.model, exact.model) == set()
    assert changed_modules(exact.model, copy.deepcopy(exact.model)) == {'0.0', '0.1', '1'}  # other weights
    assert changed_modules(exact.model, nn.Identity()) == {'0', '0.0', '0.1', '0.2', '1'}  # it lacks all


def test_it_serves_places_that_are_the_same_as_in_the_exact_model():
    fast, _ = fast_form()
    for names, serves in (
        ([], True),
        (['0'], True),
        (['0.2', '1'], True),
        (['0.1'], False),
        (['0.0'], False),
        (['0', '0.1'], False),
    ):
        for side in ('input', 'output'):
            assert fast.serves({Tap('teacher', name, side) for name in names}) == serves


def test_branches_that_a_reparameterised_block_drops_are_not_served():
    """Also the containers among them, such as a Sequential of a convolution and its batch norm."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def switch_to_deploy(self) -> None:
            self.fused = nn.utils.fusion.fuse_conv_bn_eval(*self.branch)
            del self.branch

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.branch(images) if hasattr(self, 'branch') else self.fused(images)

    exact = Logits(nn.Sequential(Block(), nn.ReLU())).eval().requires_grad_(False)
    fast = FastForm(fold_norms(exact, torch.randn(2, 3, 8, 8)), exact)
    assert fast.model is not exact
    assert not fast.serves({Tap('teacher', '0.branch')})
    assert fast.serves({Tap('teacher', '0')})


def test_it_gives_the_same_logits():
    fast, exact = fast_form()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fast(images), exact(images))
    assert not fast(images).equal(exact(images))


def test_it_infers_in_its_type_where_no_gradients_are_wanted():
    fast, exact = fast_form(torch.bfloat16)
    dtypes = []
    fast.model.model[1].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        fast(images)
    fast(images)
    assert dtypes == [torch.bfloat16, torch.float32]
    itself = FastForm(exact, exact, torch.bfloat16)
    assert itself.serves({Tap('teacher', '0.1')})  # the exact model in a lower type


@pytest.mark.parametrize('inference_dtype', [None, torch.bfloat16])
def test_cast_weights_serve_only_in_their_own_type(inference_dtype):
    fast, _ = fast_form(inference_dtype)
    fast.weights_dtype = torch.bfloat16
    cast_weights(fast.model, torch.bfloat16)
    assert not fast.serves(set())
    with torch.autocast('cpu', torch.bfloat16):
        assert fast.serves(set())
    with torch.autocast('cpu', torch.float16):
        assert not fast.serves(set())
    with torch.no_grad():
        assert fast.serves(set()) == (inference_dtype is not None)
