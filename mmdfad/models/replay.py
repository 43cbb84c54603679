"""What keeps a student from forgetting."""

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

from mmdfad.registry import MODELS
from mmdfad.utils import require_positive

__all__ = ['ReplayPool']


@MODELS.register_module()
class ReplayPool(nn.Module):
    """A ring memory of generated images that the student sees again.

    The generator moves on, and a student that follows it forgets where it was (arXiv 2108.05698). The images are kept
    as they are, in fp32: small changes can cost a generated image its label. They are part of the checkpoint, so that
    a resumed run replays the same. Many ranks have one memory: each keeps the images of all, so that one checkpoint
    serves them all, and draws its own.

    Args:
        capacity (int): Images in the memory.
        batch_size (int): Images that each imitation step replays.
        push (int): Images of each generation step that are kept. Defaults to 8.
    """

    def __init__(self, capacity: int, batch_size: int, push: int = 8) -> None:
        super().__init__()
        require_positive('model.replay.{}', capacity=capacity, batch_size=batch_size, push=push)
        self.capacity = capacity
        self.batch_size = batch_size
        self.push_size = push
        self.register_buffer('images', torch.empty(0))
        self.register_buffer('pushed', torch.zeros((), dtype=torch.long))

    def allocate(self, images: Tensor) -> None:
        """Make room for images [N, C, H, W] of this size, once."""
        self.images = images.new_zeros(self.capacity, *images.shape[1:])

    def push(self, images: Tensor) -> None:
        """Keep the first few of a batch of images [N, C, H, W], over the oldest.

        Of many ranks they are the first of the whole batch, in which the ranks take turns.
        """
        of_each = -(-self.push_size // get_world_size())
        kept = torch.stack(all_gather(images[:of_each].detach().float().contiguous()), dim=1)
        kept = kept.flatten(0, 1)[: self.push_size]
        slots = (self.pushed + torch.arange(len(kept), device=kept.device)) % self.capacity
        self.images[slots] = kept
        self.pushed += len(kept)

    def sample(self) -> Tensor | None:
        """Images [batch_size, C, H, W] drawn from the memory, or None while it holds fewer than that."""
        filled = min(int(self.pushed), self.capacity)
        if filled < self.batch_size:
            return None
        return self.images[torch.randint(filled, (self.batch_size,), device=self.images.device)]
