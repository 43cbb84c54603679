"""Lower precision where no gradient is computed."""

import torch
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn

# Autocast casts the weights of these, and they do nothing else with them.
_CASTABLE = (nn.Conv2d, nn.Linear, wrappers.Conv2d, wrappers.Linear)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen model in the type that autocast would cast them to in each pass.

    Its logits under autocast do not change by a bit. Modules that share the weights keep them in their own type.

    Args:
        model (nn.Module): The model, changed in place. It then needs autocast to ``dtype``.
        dtype (torch.dtype): Such as ``torch.bfloat16``.
    """
    for module in model.modules():
        if type(module) in _CASTABLE:
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))


def computing_dtype(device: str) -> torch.dtype:
    """The type that convolutions and matrix products compute in here: autocast's, or fp32 without it.

    Args:
        device (str): Type of the device, such as ``'cpu'``.
    """
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def sample_in(generator: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Let a generator make the images of the imitation phase in another type, in train mode.

    Args:
        generator (nn.Module): The generator; changed in place.
        dtype (torch.dtype): Such as ``torch.bfloat16``.
        device (str): Type of the device, such as ``'cpu'``.
    """
    sample = generator.sample

    def sample_in_dtype(noise: Tensor) -> Tensor:
        with torch.autocast(device, dtype, enabled=generator.training):
            return sample(noise)

    generator.sample = sample_in_dtype
