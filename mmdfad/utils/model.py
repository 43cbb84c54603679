"""Small helpers for modules."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.dist import broadcast
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import DistillError

T = TypeVar('T')


class Shared(Generic[T]):
    """Keeps a value, such as a module, outside the module tree. Copies share it.

    Args:
        value (T): The value.
    """

    def __init__(self, value: T) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict) -> 'Shared[T]':
        return self


class ModelSize(NamedTuple):
    """How large a model is.

    Attributes:
        params (int): Parameters.
        flops (float): Floating-point operations per image, with a multiply-add as one, as mmengine counts them.
        file_bytes (int): Bytes of its parameters and buffers, about the size of its checkpoint.
    """

    params: int
    flops: float
    file_bytes: int


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper for several devices, or the model itself."""
    return model.module if is_model_wrapper(model) else model


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep gradients out of a module's parameters, and restore their flags afterwards."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and restore the mode of each of its parts afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def upcast(values: Tensor) -> Tensor:
    """Values in fp32 where autocast has made them bf16 or fp16. Those in fp64 stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def broadcast_state(module: nn.Module) -> None:
    """Give all ranks the first rank's weights and buffers."""
    for tensor in module.state_dict().values():
        broadcast(tensor)


def model_size(model: nn.Module, images: Tensor) -> ModelSize:
    """Measure a model on a batch of images.

    Args:
        model (nn.Module): The model, in eval mode.
        images (Tensor): Images [N, C, H, W], two or more: some models do not take a batch of one.
    """
    plain = copy.copy(model)  # the copy is not compiled: compiled modules cannot be traced
    analyzer = FlopAnalyzer(plain, (images,)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return ModelSize(
        params=sum(p.numel() for p in model.parameters()),
        flops=analyzer.total() / len(images),
        file_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    )


def key_of(x: Tensor | None) -> tuple:
    """What identifies a tensor as long as it is alive: where its numbers are, and how often they have been changed."""
    return () if x is None else (x.data_ptr(), tuple(x.shape), x.stride(), x._version)


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm with running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def classifier_of(model: nn.Module) -> str:
    """Name of the layer that gives a model's logits: mmseg's ``conv_seg``, or the last linear or convolutional layer.

    Raises:
        DistillError: If it has none.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise DistillError(f'found no linear or convolutional layer in {type(model).__name__} that gives its logits')
    # The heads of mmseg register their other layers after it.
    return ([name for name in layers if name.rpartition('.')[2] == 'conv_seg'] or layers)[-1]
