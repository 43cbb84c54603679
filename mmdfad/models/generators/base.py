"""The contract of all generators."""

from math import ceil

from mmengine.model import BaseModule
from torch import Tensor, contiguous_format

from mmdfad.utils import DistillError


class BaseGenerator(BaseModule):
    """Turns noise into images.

    A generator knows nothing of teacher or student. What it emits is taken to be in the teacher's *normalised* pixel
    space, that is, what the teacher's data preprocessor emits.

    Subclasses implement :meth:`synthesize`, which may return images larger than asked for: they are cropped around
    the centre, so that any image size works, also one that the upsampling factor does not divide.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        upsampling (int): Factor between the first feature map and the image.
    """

    def __init__(self, noise_dim: int, image_size: int | tuple[int, int], channels: int, upsampling: int) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        for key, values in dict(noise_dim=(noise_dim,), image_size=size, channels=(channels,)).items():
            if not all(isinstance(v, int) and v > 0 for v in values) or (key == 'image_size' and len(values) != 2):
                raise DistillError(
                    f'model.generator.{key} must be positive whole numbers'
                    f'{" (height, width)" if key == "image_size" else ""}, but found {values}'
                )
        self.noise_dim = noise_dim
        self.image_size = size
        self.channels = channels
        # Size of the first feature map: the smallest that covers the image once upsampled.
        self.seed_size = tuple(ceil(s / upsampling) for s in size)

    def synthesize(self, noise: Tensor) -> Tensor:
        """Noise [N, noise_dim] to images [N, channels, >=H, >=W]."""
        raise NotImplementedError

    def forward(self, noise: Tensor) -> Tensor:
        """Generate images.

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
                f'dataset gives {list(noise.shape)} (train_dataloader.dataset.noise_dim); make the two equal'
            )
        images = self.synthesize(noise)
        top, left = ((full - kept) // 2 for full, kept in zip(images.shape[2:], self.image_size, strict=True))
        images = images[:, :, top : top + self.image_size[0], left : left + self.image_size[1]]
        # Not channels-last any more: that is for each model to choose (see `to_channels_last`).
        # A clone has the strides of its layout also with one channel, where `contiguous` would leave them.
        return images.clone(memory_format=contiguous_format)

    def _seed_map(self, features: Tensor, width: int) -> Tensor:
        """Features [N, width * h * w] to the first feature map [N, width, h, w]."""
        return features.view(-1, width, *self.seed_size)
