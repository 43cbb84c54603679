"""Crops of pictures that have nothing to do with the task."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmdfad.models.chance import CROPS, uniform
from mmdfad.models.pixels import resize_images
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

from .source import ImageSource

# Freely licensed colour photographs that Python packages ship.
SHIPPED = dict(
    sklearn=('datasets/images/china.jpg', 'datasets/images/flower.jpg'),
    skimage=('data/astronaut.png', 'data/chelsea.png', 'data/coffee.png', 'data/rocket.jpg'),
)
# Larger pictures are reduced to so many pixels along the longer side.
LARGEST = 1024
LUMINANCE = (0.299, 0.587, 0.114)


@MODELS.register_module()
class Pictures(ImageSource):
    """Random crops of a few pictures, as in Asano and Saeed (arXiv 2112.00725). It learns nothing.

    A crop has any size between that of the image and the largest that fits into the picture, and the same aspect ratio
    as the image. It may be flipped, and contrast, brightness and colours are changed. A teacher of one channel gets the
    luminance.

    Runs with it are not free of images: say so in the name of the config and wherever results are shown.

    Args:
        noise_dim (int): Length of a noise vector.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images, 3 or 1. Defaults to 3.
        folder (str, optional): Folder with pictures, also in folders inside it, in any format that PIL reads. Defaults
            to six photographs that scikit-image and scikit-learn ship (``pip install 'mmdfad[pictures]'``).

    Raises:
        DistillError: If there is no picture, or these packages are not installed.
    """

    def __init__(
        self, noise_dim: int, image_size: int | tuple[int, int], channels: int = 3, folder: str | None = None
    ) -> None:
        super().__init__(noise_dim, image_size, channels)
        if channels not in (1, 3):
            raise DistillError(f'Pictures have 1 or 3 channels, but model.generator.channels is {channels}')
        self.files = _shipped() if folder is None else _pictures_in(Path(folder))

    def draw(self, noise: Tensor) -> Tensor:
        """Noise [N, noise_dim] to images [N, C, H, W] in [0, 1]."""
        images = torch.cat([self._crop(*row) for row in uniform(noise, CROPS, 5).tolist()]).to(noise.device)
        if self.channels == 1:
            images = (images * images.new_tensor(LUMINANCE).view(-1, 1, 1)).sum(1, keepdim=True)
        return images

    def _crop(self, file: float, scale: float, top: float, left: float, flip: float) -> Tensor:
        """An image [1, 3, H, W] by five numbers in [0, 1)."""
        picture = _read(self.files[int(file * len(self.files))], max(LARGEST, *self.image_size))
        largest = min(full / size for full, size in zip(picture.shape[1:], self.image_size, strict=True))
        height, width = (max(1, int(size * largest ** (scale if largest > 1 else 1))) for size in self.image_size)
        y, x = (int(n * (f - s + 1)) for n, f, s in zip((top, left), picture.shape[1:], (height, width), strict=True))
        image = resize_images(picture[None, :, y : y + height, x : x + width].float() / 255, self.image_size)
        return image.flip(3) if flip < 0.5 else image


def _shipped() -> list[Path]:
    """The photographs in installed packages."""
    specs = {package: find_spec(package) for package in SHIPPED}
    missing = [package for package, spec in specs.items() if spec is None]
    if missing:
        raise DistillError(
            f'Pictures takes photographs from scikit-image and scikit-learn, but found no {" and no ".join(missing)}: '
            "pip install 'mmdfad[pictures]', or set model.generator.folder to a folder of your own pictures"
        )
    return [Path(specs[package].origin).parent / name for package, names in SHIPPED.items() for name in names]


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of their names."""
    known = Image.registered_extensions()
    found = sorted(path for path in folder.rglob('*') if path.suffix.lower() in known and path.is_file())
    if not found:
        raise DistillError(
            f'model.generator.folder={str(folder)!r} must hold pictures, but '
            + ('no file in it is one that PIL reads' if folder.is_dir() else 'there is no such folder')
        )
    return found


@lru_cache(maxsize=64)
def _read(path: Path, longest: int) -> Tensor:
    """A picture as uint8 [3, H, W], reduced to a longer side of ``longest``."""
    try:
        with Image.open(path) as picture:
            picture.draft('RGB', (longest, longest))  # JPEG decodes less
            picture = picture.convert('RGB')
    except (OSError, Image.DecompressionBombError) as error:
        raise DistillError(
            f'{path} in model.generator.folder is not a picture that can be read ({error}); repair or remove it'
        ) from error
    picture.thumbnail((longest, longest))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
