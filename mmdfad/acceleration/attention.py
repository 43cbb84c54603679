"""Attention with gradients on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# mmpretrain's attentions keep the function in this attribute.
_ATTRIBUTE = 'scaled_dot_product_attention'


def attend_in_float32(model: nn.Module) -> None:
    """Let attentions compute in fp32 where gradients are needed and autocast would choose a lower type.

    In torch 2.14 on CPUs, the backward pass of attention in bf16 is up to ten times slower than in fp32, most of all
    with few tokens and narrow heads.

    Args:
        model (nn.Module): The model; changed in place.
    """
    for module in model.modules():
        if getattr(module, _ATTRIBUTE, None) is F.scaled_dot_product_attention:
            setattr(module, _ATTRIBUTE, _attend)


def _attend(query: Tensor, key: Tensor, value: Tensor, **settings) -> Tensor:
    if not (torch.is_grad_enabled() and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, **settings)
    with torch.autocast(query.device.type, enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), **settings).to(query.dtype)
