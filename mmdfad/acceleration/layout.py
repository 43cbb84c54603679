"""The memory format of convolutions."""

import torch
from mmengine.logging import print_log
from torch import Tensor, nn


def to_channels_last(model: nn.Module, inputs: Tensor) -> None:
    """Let a model compute with channels last, if it supports that. Most convolutions are faster then.

    Args:
        model (nn.Module): The model, in eval mode; changed in place.
        inputs (Tensor): Images [N, C, H, W], or noise, to try it on.
    """
    model.to(memory_format=torch.channels_last)
    if not supports_channels_last(model, inputs):
        model.to(memory_format=torch.contiguous_format)


def supports_channels_last(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a model can compute with channels last.

    Two kinds of models do not. In strided 1x1 convolutions of few channels, the backward pass in fp32 corrupts memory
    in torch 2.14 on CPUs. And some models, such as DMNet, make views of features that need torch's default layout.

    Args:
        model (nn.Module): The model, in eval mode.
        inputs (Tensor): Images [N, C, H, W], or noise, to try it on.
    """
    if any(isinstance(m, nn.Conv2d) and _is_narrow_shortcut(m) for m in model.modules()):
        return False
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model(inputs)
    except RuntimeError as error:
        print_log(f'{type(model).__name__} does not compute with channels last: {error}', 'current')
        return False
    return True


def _is_narrow_shortcut(module: nn.Conv2d) -> bool:
    narrow = min(module.in_channels, module.out_channels) < 16
    return narrow and module.kernel_size == (1, 1) and max(module.stride) > 1


def train_in_channels_last(model: nn.Module, images: Tensor) -> None:
    """Let a model compute with channels last in train mode, if it supports that.

    In eval mode it computes as its exported form will.

    Args:
        model (nn.Module): The model, in eval mode. It gets a hook; its weights are not changed.
        images (Tensor): Images [N, C, H, W] to try it on.
    """

    def convert(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        return (inputs[0].contiguous(memory_format=torch.channels_last),) if module.training else None

    if supports_channels_last(model, images):
        model.register_forward_pre_hook(convert)
