"""The images that a teacher is most confident about."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

# Best for three classifiers of digits: pen strokes to dead leaves, and images drawn for each one that is kept.
SHARES, CANDIDATES = (3, 1), 8


def surest_images(batches: Iterable[Tensor], logits_of: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """Choose the images that the teacher labels with the greatest confidence, equally many for each label.

    A label of fewer images than its share gives all of them, and the others share the rest. While images arrive, no
    more than ``count`` of them and a batch are held. Sorting them at the end takes the same memory once more.

    Args:
        batches (Iterable[Tensor]): Images [n, C, H, W], at least ``count`` in all.
        logits_of (Callable[[Tensor], Tensor]): From images to the teacher's logits [n, K] or [n, K, H, W]. The label of
            an image is then that of the largest mean probability.
        count (int): Images to choose.

    Returns:
        Tensor: Images [count, C, H, W], in the order in which they came.
    """
    images = None
    for batch in batches:
        probabilities = logits_of(batch).float().softmax(1)
        sure, label = probabilities.reshape(*probabilities.shape[:2], -1).mean(2).max(1)
        if images is None:
            images, slots = batch.new_empty(count, *batch.shape[1:]), label[:0]
            confidence, labels = sure[:0], label[:0]
        confidence, labels = torch.cat([confidence, sure]), torch.cat([labels, label])
        kept = _ranks(confidence, labels).argsort(stable=True)[:count].sort().values
        confidence, labels = confidence[kept], labels[kept]
        slots = _replace(images, slots, batch, kept)
    return images[slots]


def _replace(images: Tensor, slots: Tensor, batch: Tensor, kept: Tensor) -> Tensor:
    """Write new images over old ones, in ``slots``, that are not kept. Return where all that are kept are."""
    old, new = slots[kept[kept < len(slots)]], kept[kept >= len(slots)] - len(slots)
    free = torch.ones(len(images), dtype=torch.bool, device=images.device)
    free[old] = False
    places = free.nonzero()[: len(new), 0]
    images[places] = batch[new]
    return torch.cat([old, places])


def _ranks(confidence: Tensor, labels: Tensor) -> Tensor:
    """The rank of each image [n] among those of its label, from 0 for the surest."""
    order = confidence.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    grouped = labels[order]
    places = torch.arange(len(order), device=order.device)
    ranks = torch.empty_like(places)
    ranks[order] = places - torch.searchsorted(grouped, grouped)
    return ranks
