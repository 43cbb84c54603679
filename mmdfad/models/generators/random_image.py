"""The baseline without a generator."""

from torch import Tensor

from mmdfad.registry import MODELS
from mmdfad.utils import as_pair

from .base import Generator


@MODELS.register_module()
class RandomImageGenerator(Generator):
    """Plain noise as images: the RANDOM baseline of DFAD (arXiv 1912.11006).

    It learns nothing, so a run has no generation phase. A noise vector has a number for each value of an image.

    Args:
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
    """

    def __init__(self, image_size: int | tuple[int, int], channels: int = 3) -> None:
        height, width = as_pair(image_size, 'model.generator.image_size')
        super().__init__(channels * height * width, image_size, channels)

    def synthesize(self, noise: Tensor) -> Tensor:
        return noise.view(-1, self.channels, *self.image_size)
