"""Fixed noise to look at a run with, and what to show of its images."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from mmengine.config import Config
from mmengine.dist import is_main_process
from torch import Tensor

from mmdfad.datasets.noise import LOOK_SEED, NoiseDataset
from mmdfad.models.base_distiller import BaseDistiller


def probe_noise(distiller: BaseDistiller, count: int) -> Tensor:
    """The same noise [count, noise_dim] in every run."""
    return NoiseDataset(distiller.generator.noise_dim, LOOK_SEED).__getitems__(range(count))


def must_probe(distiller: BaseDistiller) -> bool:
    """Whether this rank has to run the networks when the first rank probes them.

    The first rank always has to; the others only if the teacher is split over the ranks.
    """
    return is_main_process() or distiller.teacher.shard


@dataclass(frozen=True)
class Classes:
    """What to call the classes, and how to colour them.

    Attributes:
        names (list[str]): A name for each class.
        palette (np.ndarray): A uint8 RGB colour for each class [K, 3].
    """

    names: list[str]
    palette: np.ndarray

    @classmethod
    def of(cls, distiller: BaseDistiller, run: Config) -> 'Classes':
        """Names and colours as the teacher's checkpoint or the run's data have them, or else numbers and hues.

        Args:
            distiller (BaseDistiller): The distiller.
            run (Config): The config of the run.
        """
        meta, count = distiller.teacher.meta_in(run), distiller.num_classes
        names = [str(name) for name in meta.get('classes') or ()][:count]
        palette = (colormaps['hsv'](np.arange(count) / count)[:, :3] * 255).astype(np.uint8)
        known = np.array(meta.get('palette') or palette, np.uint8)[:count]
        palette[: len(known)] = known
        return cls([*names, *map(str, range(len(names), count))], palette)


def to_pictures(distiller: BaseDistiller, images: Tensor) -> np.ndarray:
    """Images in the teacher's pixel space [N, C, H, W] as uint8 RGB pictures [N, H, W, 3], grey unless C is 3."""
    pictures = distiller.teacher.pixel_space.to_rgb(images).permute(0, 2, 3, 1).cpu().numpy()
    return pictures if pictures.shape[3] == 3 else pictures.mean(3, keepdims=True).astype(np.uint8).repeat(3, axis=3)
