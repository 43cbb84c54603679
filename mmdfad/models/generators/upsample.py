"""The DFAD paper's generator A, for small images."""

from torch import Tensor, channels_last, contiguous_format, nn
from torch.nn import functional as F

from mmdfad.registry import MODELS
from mmdfad.utils import require_count

from .base import Generator


class UpsampledConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution with padding 1, in one operation.

    Upsampling repeats each pixel four times. Weights that meet the same pixel are added first and multiplied once. The
    result is a transposed convolution with a 4x4 kernel and stride 2: 4 products for each output in place of 9.

    Args:
        in_channels (int): Channels of the maps.
        out_channels (int): Channels of the maps of twice the size.
        bias (bool): Whether the convolution has a bias. Defaults to True.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps [N, in, H, W] to maps [N, out, 2H, 2W]."""
        taps = self.weight.flip(2, 3)
        taps = F.pad(taps, (0, 1)) + F.pad(taps, (1, 0))
        taps = F.pad(taps, (0, 0, 0, 1)) + F.pad(taps, (0, 0, 1, 0))
        layout = channels_last if self.weight.is_contiguous(memory_format=channels_last) else contiguous_format
        taps = taps.transpose(0, 1).contiguous(memory_format=layout)
        return F.conv_transpose2d(inputs, taps, self.bias, stride=2, padding=1)


@MODELS.register_module()
class UpsampleGenerator(Generator):
    """Nearest-neighbour upsampling and convolutions: generator A of DFAD (arXiv 1912.11006).

    Linear, BN, [x2 and Conv3, BN, LeakyReLU] twice, Conv3, Tanh, and a last BN without affine parameters, so that the
    images are standardised, as normalised data is. Weights keep torch's default initialisation, as in the paper.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        width (int): Channels of the first feature map; the second has half. Defaults to 128, the paper's.
    """

    def __init__(self, noise_dim: int, image_size: int | tuple[int, int], channels: int = 3, width: int = 128) -> None:
        require_count('model.generator.width', width, 2)
        super().__init__(noise_dim, image_size, channels, upsampling=4)
        self.width = width
        self.project = nn.Linear(noise_dim, width * self.base_size[0] * self.base_size[1])
        self.decoder = nn.Sequential(
            nn.BatchNorm2d(width),
            UpsampledConv2d(width, width),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2, inplace=True),
            UpsampledConv2d(width, width // 2),
            nn.BatchNorm2d(width // 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def synthesize(self, noise: Tensor) -> Tensor:
        return self.decoder(self._base_map(self.project(noise), self.width))
