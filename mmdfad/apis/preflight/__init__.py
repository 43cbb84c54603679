"""Checks of a teacher before a distillation begins, by what it carries in itself."""

from torch import Tensor

from mmdfad.models.network import Network

from .pixels import check_pixels
from .weights import check_weights

__all__ = ['check_teacher']


def check_teacher(teacher: Network, images: Tensor, num_classes: int) -> list[str]:
    """Look for mistakes in a teacher's config and checkpoint. It takes about as long as a forward pass.

    Args:
        teacher (Network): The teacher.
        images (Tensor): Two images [2, C, H, W] or more of the size that it takes. Their values do not matter.
        num_classes (int): Number of its logits.

    Returns:
        list[str]: A sentence or two on each mistake that was found.
    """
    # The statistics of a network that is not trained tell nothing.
    return check_weights(teacher, num_classes) or check_pixels(teacher, images)
