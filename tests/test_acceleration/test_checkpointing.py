"""Less memory for activations, with the same results."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.acceleration import checkpoint_activations
from mmdfad.utils import DistillError


def saved_bytes(step) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()) for _ in range(4))
    )


def test_checkpointed_parts_compute_the_same_with_less_memory():
    model = model_of()
    saving = copy.deepcopy(model)
    checkpoint_activations(saving, ['0', '1', '2', '3'], 'key')
    images = torch.randn(8, 4, 16, 16)
    kept = []
    for net in (model, saving):
        torch.manual_seed(1)
        results = []
        kept.append(saved_bytes(lambda net=net, results=results: results.append(net(images).square().mean())))
        results[0].backward()
    assert kept[1] < kept[0] / 2
    for ours, theirs in zip(saving.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(saving.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # a batch was counted once
    assert all(m.track_running_stats for m in saving.modules() if isinstance(m, _BatchNorm))


def test_nothing_is_repeated_without_gradients():
    model = model_of()
    checkpoint_activations(model, ['0'], 'key')
    calls = []
    model[0][0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.randn(2, 4, 8, 8))
    assert len(calls) == 1
    model(torch.randn(2, 4, 8, 8)).sum().backward()
    assert len(calls) == 3


def test_unknown_parts_are_named():
    message = r"my.key names 'layer1', but the model has no such part; some of its parts are 0, 0.0, 0.1, .*3.3"
    with pytest.raises(DistillError, match=message):
        checkpoint_activations(model_of(), ['layer1'], 'my.key')
