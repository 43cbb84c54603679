"""A ring memory of generated images."""

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from torch import Tensor, nn

from mmdfad.models.chance import MEMORY, uniform


class ImageMemory(nn.Module):
    """Keeps the latest images, in fp32: small changes can cost a generated image its label.

    The images are part of the checkpoint, so that a resumed run draws the same. Many ranks have the same memory: each
    keeps the images of all, so that one checkpoint serves them all.

    Args:
        capacity (int): Images in the memory.
        channels (int): Channels of the images.
        image_size (tuple[int, int]): Height and width of the images.
    """

    def __init__(self, capacity: int, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer('images', torch.zeros(capacity, channels, *image_size))
        self.register_buffer('pushed', torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """How many images there are."""
        return min(int(self.pushed), len(self.images))

    def push(self, images: Tensor, count: int | None = None) -> None:
        """Keep images over the oldest ones.

        Args:
            images (Tensor): Images [N, C, H, W] of this rank.
            count (int, optional): Keep the first so many of the whole batch, in which the ranks take turns. Defaults
                to all.
        """
        ranks = get_world_size()
        count = ranks * len(images) if count is None else count
        share = -(-count // ranks)
        if ranks > 1:  # a bank may have fewer images for some ranks
            fewest = torch.tensor(len(images), device=images.device)
            all_reduce(fewest, 'min')
            share = min(share, int(fewest))
        kept = torch.stack(all_gather(images[:share].detach().to(self.images.dtype).contiguous()), dim=1)
        kept = kept.flatten(0, 1)[:count][-len(self.images) :]
        slots = (self.pushed + torch.arange(len(kept), device=kept.device)) % len(self.images)
        self.images[slots] = kept
        self.pushed += len(kept)

    def draw(self, noise: Tensor, count: int | None = None) -> Tensor:
        """Draw images uniformly, with replacement. The noise decides which.

        Args:
            noise (Tensor): Noise [N, noise_dim].
            count (int, optional): Images to draw. Defaults to N.

        Returns:
            Tensor: Images [count, C, H, W].
        """
        count = len(noise) if count is None else count
        draws = uniform(noise, MEMORY, -(-count // len(noise))).T.flatten()[:count]
        return self.images[(draws * len(self)).long()]
