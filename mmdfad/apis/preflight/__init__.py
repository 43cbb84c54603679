"""Checks of a teacher before a distillation begins, by what it carries in itself."""

import torch
from torch import Tensor

from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.models.network import Network

from .pixels import check_pixels
from .weights import check_weights

__all__ = ['check_distillation', 'check_teacher']


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


def check_distillation(distiller: BaseDistiller) -> list[str]:
    """Check the teacher of a distiller, before it trains.

    Args:
        distiller (BaseDistiller): The distiller. A teacher whose weights are split over the ranks is not checked.
    """
    if distiller.teacher.shard:
        return []
    generator = distiller.generator
    images = torch.zeros(2, generator.channels, *generator.image_size, device=distiller.device)
    return check_teacher(distiller.teacher, images, distiller.num_classes)
