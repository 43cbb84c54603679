"""Lower precision where no gradient is computed."""

import torch
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn

# These do nothing with their weights but what autocast would cast them for.
_CASTABLE = (nn.Conv2d, nn.Linear, wrappers.Conv2d, wrappers.Linear)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen model in the type that autocast casts them to, in each pass anew.

    Its logits under autocast stay the same to the bit. Other modules may still share the weights in their own type.

    Args:
        model (nn.Module): The model; of no use without autocast to ``dtype`` then.
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
