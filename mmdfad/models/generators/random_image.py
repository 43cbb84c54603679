"""The baseline without a generator."""

from torch import Tensor

from mmdfad.registry import MODELS

from .base import BaseGenerator


@MODELS.register_module()
class RandomImageGenerator(BaseGenerator):
    """Noise as it comes, as images: the RANDOM baseline of DFAD (arXiv 1912.11006).

    It has nothing to learn: use it with ``train_cfg.generation_steps=0``. A noise vector has a number for each value
    of an image, so the dataset's ``noise_dim`` must be channels x height x width.

    Args:
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
    """

    def __init__(self, image_size: int | tuple[int, int], channels: int = 3) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        super().__init__(channels * height * width, image_size, channels, upsampling=1)

    def synthesize(self, noise: Tensor) -> Tensor:
        return noise.view(-1, self.channels, *self.image_size)
