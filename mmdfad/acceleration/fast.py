"""The faster form of a frozen network."""

from collections.abc import Collection
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from .dtypes import computing_dtype


class Place(Protocol):
    """Where something is to be recorded: the name of a module of the plain model."""

    module: str


class FastForm(nn.Module):
    """A copy of a model that gives the same logits in less time, or the model itself in a faster type.

    Args:
        model (nn.Module): The copy: images to logits, with the plain model as its ``model``.
        exact (nn.Module): What it is a copy of.
        inference_dtype (torch.dtype, optional): Type to compute in if no gradients are wanted. Defaults to that of the
            context.
    """

    def __init__(self, model: nn.Module, exact: nn.Module, inference_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.inference_dtype = inference_dtype
        self.weights_dtype: torch.dtype | None = None
        self._changed = changed_modules(exact.model, model.model)

    def serves(self, places: Collection[Place]) -> bool:
        """Whether it can record these places as the exact model would, and computes in the type of its weights."""
        if any(place.module in self._changed for place in places):
            return False
        return self.weights_dtype in (None, self._dtype())

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits."""
        with torch.autocast(images.device.type, self.inference_dtype) if self._infers() else nullcontext():
            return self.model(images)

    def _infers(self) -> bool:
        """Whether it computes in the type for inference now."""
        return self.inference_dtype is not None and not torch.is_grad_enabled()

    def _dtype(self) -> torch.dtype:
        if self._infers():
            return self.inference_dtype
        return computing_dtype(next(self.parameters()).device.type)


def changed_modules(exact: nn.Module, copy: nn.Module) -> set[str]:
    """Names of the modules that a copy lacks, and of the innermost ones that have other weights there."""
    copies = dict(copy.named_modules())
    return {
        name
        for name, module in exact.named_modules()
        if name not in copies or (not any(True for _ in module.children()) and not _same(module, copies[name]))
    }


def _same(module: nn.Module, other: nn.Module) -> bool:
    if type(other) is not type(module):
        return False
    return all(a is b for a, b in zip(module.parameters(), other.parameters(), strict=False))
