"""Pictures of what the generator makes."""

import math
from typing import Any

import cv2
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdfad.datasets import NoiseDataset
from mmdfad.registry import HOOKS
from mmdfad.utils.export import dataset_meta_of
from mmdfad.utils.model import unwrap

# Noise that no training run with a seed of its own draws from.
PROBE_SEED = 2**63 - 1


@HOOKS.register_module()
class SyntheticImageHook(Hook):
    """Sends a grid of generated images to every visualizer backend.

    The images are made from the same noise every time, in eval mode, and shown as the colours that the teacher's
    normalised pixels stand for. Below each stands what teacher and student take it for. Looking changes nothing:
    a run with this hook and one without it train the same student.

    Args:
        interval (int): Rounds between grids; there is one more after the last round. Defaults to 100.
        num_images (int): Images in a grid. Defaults to 32.
        min_tile (int): Smaller images are enlarged, by a whole factor, to at least so many pixels. Defaults to 96.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 100, num_images: int = 32, min_tile: int = 96) -> None:
        self.interval = interval
        self.num_images = num_images
        self.min_tile = min_tile

    def before_train(self, runner: Runner) -> None:
        """Draw the noise once, and look up the names of the classes."""
        distiller = unwrap(runner.model)
        self.noise = NoiseDataset(distiller.generator.noise_dim, PROBE_SEED).__getitems__(range(self.num_images))
        meta = distiller.teacher_player.dataset_meta or dataset_meta_of(runner.cfg)
        self.classes = meta.get('classes') or ()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Draw a grid when it is time."""
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self._draw(runner)

    @master_only
    def _draw(self, runner: Runner) -> None:
        distiller = unwrap(runner.model)
        images, student_labels, teacher_labels = distiller.probe(self.noise)
        pictures = distiller.teacher_pixels.to_rgb(images).permute(0, 2, 3, 1).cpu().numpy()
        captions = [
            (self._name(t), self._name(s)) for t, s in zip(teacher_labels.cpu(), student_labels.cpu(), strict=True)
        ]
        runner.visualizer.add_image('synthetic', draw_grid(pictures, captions, self.min_tile), runner.iter + 1)

    def _name(self, label: Tensor) -> str:
        index = int(label)
        return str(self.classes[index]) if index < len(self.classes) else str(index)


def draw_grid(pictures: np.ndarray, captions: list[tuple[str, str]], min_tile: int) -> np.ndarray:
    """Arrange images in a grid, with what teacher and student say below each.

    Args:
        pictures (np.ndarray): uint8 images [N, H, W, 1 or 3].
        captions (list[tuple[str, str]]): The teacher's and the student's class of each. Red where they differ.
        min_tile (int): Least width and height of an image in the grid, in pixels.

    Returns:
        np.ndarray: uint8 RGB image.
    """
    factor = max(1, math.ceil(min_tile / min(pictures.shape[1:3])))
    tiles = [_tile(p, teacher, student, factor) for p, (teacher, student) in zip(pictures, captions, strict=True)]
    columns = math.ceil(math.sqrt(2 * len(tiles)))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _tile(picture: np.ndarray, teacher: str, student: str, factor: int) -> np.ndarray:
    """One image, enlarged without smoothing, with its caption and a white margin."""
    picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    caption = np.full((34, picture.shape[1], 3), 255, np.uint8)
    colour = (0, 0, 0) if teacher == student else (200, 0, 0)
    limit = picture.shape[1] // 8
    for text, baseline in ((f'T {teacher}', 13), (f'S {student}', 29)):
        cv2.putText(caption, text[:limit], (2, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return np.pad(np.vstack([picture, caption]), ((2, 2), (2, 2), (0, 0)), constant_values=255)
