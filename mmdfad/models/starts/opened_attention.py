"""torch's attention with its projections as linear layers, so that hooks see them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_PROJECTIONS = ('q_proj', 'k_proj', 'v_proj')


@contextmanager
def opened_attentions(model: nn.Module) -> Iterator[dict[str, nn.Linear]]:
    """Let each ``nn.MultiheadAttention`` of a model call linear layers for its projections.

    Their parameters are views of the attention's own. What changes them in place changes the model.

    Args:
        model (nn.Module): The model.

    Yields:
        dict[str, nn.Linear]: The layers of queries, keys and values by name: ``'...attn.q_proj'``.
    """
    opened, layers = [], {}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn:
                attention = _OpenedAttention(module)
                module.forward = attention
                opened.append(module)
                layers |= {f'{name}.{key}': getattr(attention, key) for key in _PROJECTIONS}
        yield layers
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module in opened:
            del module.forward


class _OpenedAttention:
    """The forward pass of an attention, by its definition."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        self.attention = attention
        size = attention.embed_dim
        widths = (size, attention.kdim, attention.vdim)
        # Without weights of their own: these are views of the attention's.
        for key, width in zip(_PROJECTIONS, widths, strict=True):
            setattr(self, key, nn.Linear(width, size, device='meta', bias=attention.in_proj_bias is not None))

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        attention = self.attention
        self._view_parameters()
        inputs = [x.unsqueeze(0 if attention.batch_first else 1) if x.ndim == 2 else x for x in (query, key, value)]
        projected = (layer(x) for layer, x in zip((self.q_proj, self.k_proj, self.v_proj), inputs, strict=True))
        q, k, v = (self._heads(x) for x in projected)  # [N, heads, L, C]
        scores = q @ k.transpose(2, 3) * attention.head_dim**-0.5
        for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None]):
            scores = _masked(scores, mask)
        weights = scores.softmax(3)
        mixed = (weights @ v).transpose(1, 2).flatten(2)  # [N, L, heads * C]
        output = attention.out_proj(mixed if attention.batch_first else mixed.transpose(0, 1))
        if query.ndim == 2:
            output = output.squeeze(0 if attention.batch_first else 1)
        if not need_weights:
            return output, None
        return output, weights.mean(1) if average_attn_weights else weights

    def _view_parameters(self) -> None:
        attention = self.attention
        joined = attention.in_proj_weight
        for i, key in enumerate(_PROJECTIONS):
            layer, rows = getattr(self, key), slice(i * attention.embed_dim, (i + 1) * attention.embed_dim)
            weight = getattr(attention, f'{key}_weight') if joined is None else joined[rows]
            layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
            if attention.in_proj_bias is not None:
                layer.bias = nn.Parameter(attention.in_proj_bias[rows].detach(), requires_grad=False)

    def _heads(self, x: Tensor) -> Tensor:
        x = x if self.attention.batch_first else x.transpose(0, 1)
        return x.unflatten(2, (self.attention.num_heads, -1)).transpose(1, 2)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores [N, heads, L, S] with a mask: true where attention is not allowed, or numbers to add."""
    if mask is None:
        return scores
    if mask.ndim == 3:  # [N * heads, L, S]
        mask = mask.unflatten(0, scores.shape[:2])
    return scores.masked_fill(mask, float('-inf')) if mask.dtype == torch.bool else scores + mask
