"""Activations that are computed again in the backward pass, for less memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmdfad.utils import DistillError


def checkpoint_activations(model: nn.Module, names: Sequence[str], key: str) -> None:
    """Let parts of a model drop their activations, and compute them again in the backward pass.

    Unlike mmengine's ``activation_checkpointing``, batch norms count a batch once, so that nothing else changes.
    ``torch.compile`` leaves out these parts of a model that learns.

    Args:
        model (nn.Module): The model; changed in place.
        names (Sequence[str]): Names of the parts, as in its state dict, such as ``'backbone.layer1'``.
        key (str): Where they stand in the config, for messages.

    Raises:
        DistillError: If it has no part with such a name.
    """
    parts = dict(model.named_modules())
    # torch.compile does not support the context that keeps batch norms in train mode from counting twice.
    learns = any(parameter.requires_grad for parameter in model.parameters())
    checkpointed = torch.compiler.disable(_checkpointed) if learns else _checkpointed
    for name in names:
        if name not in parts:
            some = ', '.join(n for n in parts if n and n.count('.') < 2)
            raise DistillError(f'{key} names {name!r}, but the model has no such part; some of its parts are {some}')
        part = parts[name]
        part.forward = partial(checkpointed, part, part.forward)


def _checkpointed(part: nn.Module, forward: object, *args, **kwargs) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(
        forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _without_counting(part)), **kwargs
    )


@contextmanager
def _without_counting(part: nn.Module) -> Iterator[None]:
    """Let batch norms in train mode keep their running statistics when they see a batch again."""
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                getattr(norm, name).copy_(buffer)
