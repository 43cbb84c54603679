"""Comparing state dicts, and explaining how they differ."""

import hashlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


def explain_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """List the differences between a model and a checkpoint that does not fit it.

    Args:
        expected (Mapping[str, Tensor]): The model's state dict.
        found (Mapping[str, Tensor]): The checkpoint's.

    Returns:
        str: A few lines that name the keys, or '' if the checkpoint fits. The step counters of batch norms may be
        missing: old checkpoints lack them.
    """
    missing = (k for k in expected.keys() - found.keys() if not k.endswith('num_batches_tracked'))
    shapes = (
        f'{key} (model {list(expected[key].shape)}, checkpoint {list(found[key].shape)})'
        for key in expected.keys() & found.keys()
        if expected[key].shape != found[key].shape
    )
    return '\n'.join(
        filter(
            None,
            (
                _few('missing in the checkpoint', missing),
                _few('unknown to the model', found.keys() - expected.keys()),
                _few('of another shape', shapes),
            ),
        )
    )


def regenerated_names(model: nn.Module) -> set[str]:
    """Names that a model computes by itself and drops from every state dict that it loads, as SwinV2 does."""
    return set(model.load_state_dict(model.state_dict(), strict=False).missing_keys)


def spaced(total: int, kept: int) -> Tensor:
    """Indices [kept] of evenly spaced channels out of ``total`` (weight selection, arXiv 2311.18823)."""
    return torch.arange(kept) * total // kept


def fits(tensor: Tensor, source: Tensor | None) -> bool:
    """Whether a tensor can be a selection from another one: as many dimensions, none of them larger."""
    return (
        source is not None
        and source.ndim == tensor.ndim
        and all(t <= s for t, s in zip(tensor.shape, source.shape, strict=True))
    )


def select_weights(
    expected: Mapping[str, Tensor],
    larger: Mapping[str, Tensor],
    source_name: Callable[[str], str] = str,
    index: Callable[[str, int, int, int], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Select weights for a narrower model from a larger one of the same family (arXiv 2311.18823).

    Evenly spaced elements of each dimension are kept. So layers that follow each other keep the same channels.

    Args:
        expected (Mapping[str, Tensor]): The narrower model's state dict.
        larger (Mapping[str, Tensor]): The larger one's.
        source_name (Callable[[str], str]): The larger model's name of a parameter. Defaults to the same name.
        index (Callable[[str, int, int, int], Tensor], optional): Which elements to keep: of a parameter's name, a
            dimension, its size in the larger and in the narrower model. Defaults to evenly spaced ones.

    Returns:
        dict[str, Tensor]: Weights for every name that both have with equally many dimensions, if ``larger`` is at
        least as large in each of them.
    """
    selected = {}
    for name, tensor in expected.items():
        source = larger.get(source_name(name))
        if not fits(tensor, source):
            continue
        if hasattr(source, 'full_tensor'):  # sharded: one whole tensor at a time
            source = source.full_tensor()
        for dim, (size, kept) in enumerate(zip(source.shape, tensor.shape, strict=True)):
            if size > kept:
                rows = spaced(size, kept) if index is None else index(name, dim, size, kept)
                source = source.index_select(dim, rows.to(source.device))
        selected[name] = source.clone()
    return selected


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of a model's state dict: of the names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name}:{tensor.dtype}:{list(tensor.shape)};'.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def strip_model_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    """Remove the ``model.`` that a wrapper around a plain module adds to the names of its state dict.

    This is a state dict hook. It works in place: torch ignores what the hook of an inner module returns.
    """
    inner = f'{prefix}model.'
    for key in [key for key in state_dict if key.startswith(inner)]:
        state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)


def _few(what: str, names: Iterable[str], limit: int = 8) -> str:
    names = sorted(names)
    more = f', ... ({len(names)} in all)' if len(names) > limit else ''
    return f'  {what}: {", ".join(names[:limit])}{more}' if names else ''
