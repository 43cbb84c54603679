"""The DFAD paper's generator B, for large images."""

from itertools import pairwise

from torch import Tensor, nn

from mmdfad.registry import MODELS
from mmdfad.utils import require_count

from .base import Generator


@MODELS.register_module()
class DCGANGenerator(Generator):
    """Transposed convolutions: generator B of DFAD (arXiv 1912.11006), after DCGAN (arXiv 1511.06434).

    Linear, BN, four [ConvT4 stride 2, BN, LeakyReLU], Conv3, Tanh: images in [-1, 1], which is the normalised space
    of a teacher with mean = std = 0.5. For teachers normalised otherwise set ``output_scale`` to cover their range.
    Weights of convolutions and scales of BN are drawn from N(0, 0.02) and N(1, 0.02), as in DCGAN.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        width (int): Channels of the last two stages; the ones before have 2, 4 and 8 times as many. Defaults to 64,
            the paper's.
        output_scale (float): The images span [-output_scale, output_scale]. Defaults to 1.
    """

    def __init__(
        self,
        noise_dim: int,
        image_size: int | tuple[int, int],
        channels: int = 3,
        width: int = 64,
        output_scale: float = 1.0,
    ) -> None:
        require_count('model.generator.width', width, 1)
        super().__init__(noise_dim, image_size, channels, upsampling=16)
        self.first_width = 8 * width
        self.output_scale = output_scale
        self.project = nn.Linear(noise_dim, self.first_width * self.base_size[0] * self.base_size[1])
        widths = [8 * width, 4 * width, 2 * width, width, width]
        stages = [nn.BatchNorm2d(widths[0])]
        for before, after in pairwise(widths):
            stages += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.decoder = nn.Sequential(*stages, nn.Conv2d(width, channels, 3, padding=1), nn.Tanh())
        self.apply(_dcgan_init)

    def reset_parameters(self) -> None:
        super().reset_parameters()  # with the statistics of batch norms
        self.apply(_dcgan_init)

    def synthesize(self, noise: Tensor) -> Tensor:
        return self.decoder(self._base_map(self.project(noise), self.first_width)) * self.output_scale


def _dcgan_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
