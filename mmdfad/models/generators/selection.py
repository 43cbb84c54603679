"""The images that a teacher is surest of."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def surest_images(batches: Iterable[Tensor], logits_of: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """Choose the images that the teacher labels with the greatest confidence, as many of each label.

    A label of fewer images than its share gives all of them, and the others share the rest. No more than ``count``
    images and a batch are held at once.

    Args:
        batches (Iterable[Tensor]): Images [n, C, H, W], at least ``count`` in all.
        logits_of (Callable[[Tensor], Tensor]): From images to the teacher's logits [n, K] or [n, K, H, W]. The label of
            an image is then that of the largest mean probability.
        count (int): Images to choose.

    Returns:
        Tensor: Images [count, C, H, W].
    """
    images, confidence, labels = [], [], []
    for batch in batches:
        probabilities = logits_of(batch).float().softmax(1)
        sure, label = probabilities.reshape(*probabilities.shape[:2], -1).mean(2).max(1)
        images, confidence, labels = (
            torch.cat([*kept, new]) for kept, new in ((images, batch), (confidence, sure), (labels, label))
        )
        kept = _ranks(confidence, labels).argsort(stable=True)[:count].sort().values
        images, confidence, labels = [images[kept]], [confidence[kept]], [labels[kept]]
    return images[0]


def _ranks(confidence: Tensor, labels: Tensor) -> Tensor:
    """The rank of each image [n] among those of its label, from 0 for the surest."""
    order = confidence.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    grouped = labels[order]
    places = torch.arange(len(order), device=order.device)
    ranks = torch.empty_like(places)
    ranks[order] = places - torch.searchsorted(grouped, grouped)
    return ranks
