"""The contract of all generators."""

from collections.abc import Callable
from math import ceil

import torch
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from torch import Tensor, contiguous_format, nn

from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError, as_pair, require_positive


def loss_scale(optim: OptimWrapper) -> float:
    """What fp16 multiplies losses by, so that small gradients do not become zero; 1 in other types."""
    scaler = getattr(optim, 'loss_scaler', None)
    return 1.0 if scaler is None else scaler.get_scale()


class Generator(BaseModule):
    """Turns noise into images in the teacher's *normalised* pixel space.

    That is the space of what the teacher's data preprocessor returns. A generator does not know the teacher or the
    student: :meth:`update` and :meth:`prepare` are given functions that hide them.

    Subclasses implement :meth:`synthesize`, which may return larger images than asked for: they are cropped around
    the centre. So any image size works, also one that the upsampling factor does not divide.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        upsampling (int): Factor between the first feature map and the image. Defaults to 1.

    Attributes:
        takes_chance (bool): Whether images also take random numbers from the bits of their noise
            (:mod:`~mmdfad.models.chance`).
    """

    takes_chance = False

    def __init__(
        self, noise_dim: int, image_size: int | tuple[int, int], channels: int = 3, upsampling: int = 1
    ) -> None:
        super().__init__()
        self.image_size = as_pair(image_size, 'model.generator.image_size')
        require_positive('model.generator.{}', noise_dim=noise_dim, channels=channels)
        self.noise_dim = noise_dim
        self.channels = channels
        # Size of the first feature map: the smallest that covers the image once upsampled.
        self.base_size = tuple(ceil(s / upsampling) for s in self.image_size)

    @property
    def learner(self) -> nn.Module:
        """nn.Module: What the optimizer updates: the generator itself, or the one inside a wrapper."""
        return self

    @property
    def learns(self) -> bool:
        """bool: Whether there is anything to update. If not, there is no optimizer and no generation phase."""
        return any(p.requires_grad for p in self.learner.parameters())

    @property
    def steps_per_update(self) -> int:
        """int: How often :meth:`update` calls the optimizer wrapper, which counts this to accumulate gradients."""
        return 1

    def reset_parameters(self) -> None:
        """Begin again with other random weights."""
        for module in list(self.modules())[1:]:
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()

    def bind_pixels(self, space: PixelSpace) -> None:
        """Learn how the teacher normalises its images. It is called once, when the distiller is built.

        Generators that find out by training do nothing here.

        Args:
            space (PixelSpace): The teacher's pixel space.
        """

    def prepare(self, logits_of: Callable[[Tensor], Tensor]) -> None:
        """Prepare for the first round. All ranks call it, also those of a resumed run.

        Args:
            logits_of (Callable[[Tensor], Tensor]): From images [N, C, H, W] to the teacher's logits.
        """

    def synthesize(self, noise: Tensor) -> Tensor:
        """Noise [N, noise_dim] to images [N, channels, >=H, >=W]."""
        raise NotImplementedError

    def forward(self, noise: Tensor) -> Tensor:
        """Generate images, with gradients.

        Args:
            noise (Tensor): Noise of shape [N, noise_dim].

        Returns:
            Tensor: Images of shape [N, C, H, W] in the teacher's normalised pixel space.

        Raises:
            DistillError: If the noise has another length than this generator takes.
        """
        if noise.ndim != 2 or noise.shape[1] != self.noise_dim:
            raise DistillError(
                f'the generator takes noise of shape [N, {self.noise_dim}] (model.generator.noise_dim), but the '
                f'dataset gives {list(noise.shape)} (train_dataloader.dataset.noise_dim); leave out the latter'
            )
        images = self.synthesize(noise)
        top, left = ((full - kept) // 2 for full, kept in zip(images.shape[2:], self.image_size, strict=True))
        images = images[:, :, top : top + self.image_size[0], left : left + self.image_size[1]]
        # Each model chooses its own memory format. A clone has the strides of its format also with one channel,
        # where `contiguous` would leave them.
        return images.clone(memory_format=contiguous_format)

    def sample(self, noise: Tensor) -> Tensor:
        """Images for the imitation phase, without gradients.

        Args:
            noise (Tensor): Noise of shape [N, noise_dim].

        Returns:
            Tensor: Images [M, C, H, W]. Wrappers may add or change images.
        """
        with torch.no_grad():
            return self(noise)

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        """Take one step towards images with a smaller loss.

        Args:
            noise (Tensor): Noise of shape [N, noise_dim].
            loss (Callable[..., Tensor]): From images [N, C, H, W] of that noise to a scalar. Images that belong to
                other noise come with it: ``loss(images, noise)``.
            optim (OptimWrapper): The optimizer of :attr:`learner`.
        """
        with optim.optim_context(self):
            value = loss(self(noise))
        optim.update_params(value)

    def _base_map(self, features: Tensor, width: int) -> Tensor:
        """Features [N, width * h * w] to the first feature map [N, width, h, w]."""
        return features.view(-1, width, *self.base_size)
