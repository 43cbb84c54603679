"""Pictures of generated images."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdfad.engine.probe import Classes, must_probe, probe_noise, to_pictures
from mmdfad.models.step import labels_of
from mmdfad.registry import HOOKS
from mmdfad.utils.model import unwrap


@HOOKS.register_module()
class SyntheticImageHook(Hook):
    """Sends a grid of generated images to every visualizer backend.

    The images come from the same noise every time, with the generator in eval mode. The teacher's normalised pixels are
    shown as colours. Below each image are the labels of teacher and student. For a segmentor the two label maps are
    beside it, in the colours of the dataset. The hook does not change the run.

    Args:
        interval (int): Rounds between grids. One more follows the last round. Defaults to 100.
        num_images (int): Images in a grid. Defaults to 32.
        min_tile (int): Smaller images are enlarged by a whole factor to at least this many pixels. Defaults to 96.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 100, num_images: int = 32, min_tile: int = 96) -> None:
        self.interval = interval
        self.num_images = num_images
        self.min_tile = min_tile

    def before_train(self, runner: Runner) -> None:
        """Draw the noise once, and look up names and colours of the classes."""
        distiller = unwrap(runner.model)
        self.noise = probe_noise(distiller, self.num_images)
        self.classes = Classes.of(distiller, runner.cfg)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Draw a grid when it is time."""
        due = self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)
        if due and must_probe(unwrap(runner.model)):
            self._draw(runner)

    def _draw(self, runner: Runner) -> None:
        distiller = unwrap(runner.model)
        images, student_logits, teacher_logits = distiller.probe(self.noise)
        if not is_main_process():
            return
        labels = (labels_of(logits).cpu().numpy() for logits in (teacher_logits, student_logits))
        tiles = [self._tile(*column) for column in zip(to_pictures(distiller, images), *labels, strict=True)]
        runner.visualizer.add_image('synthetic', draw_grid(tiles, self.min_tile), runner.iter + 1)

    def _tile(self, picture: np.ndarray, teacher: np.ndarray, student: np.ndarray) -> 'Tile':
        """An image of a classifier with two names, or of a segmentor with two label maps."""
        names, palette = self.classes.names, self.classes.palette
        if teacher.ndim == 0:
            return Tile(picture, (f'T {names[teacher]}', f'S {names[student]}'), teacher != student)
        picture = np.hstack([picture, palette[teacher], palette[student]])
        return Tile(picture, ('image, teacher, student', f'agree on {(teacher == student).mean():.0%}'), False)


class Tile(NamedTuple):
    """A picture of a grid.

    Attributes:
        picture (np.ndarray): uint8 RGB image [H, W, 3].
        lines (tuple[str, str]): What to write below it.
        alert (bool): Whether to write it in red.
    """

    picture: np.ndarray
    lines: tuple[str, str]
    alert: bool


def draw_grid(tiles: list[Tile], min_tile: int) -> np.ndarray:
    """Arrange pictures in a grid about twice as wide as it is high.

    Args:
        tiles (list[Tile]): Pictures of one size.
        min_tile (int): Least width and height of a picture in the grid, in pixels.

    Returns:
        np.ndarray: uint8 RGB image.
    """
    factor = max(1, math.ceil(min_tile / min(tiles[0].picture.shape[:2])))
    drawn = [_draw_tile(tile, factor) for tile in tiles]
    height, width = drawn[0].shape[:2]
    columns = min(len(drawn), math.ceil(math.sqrt(2 * len(drawn) * height / width)))
    drawn += [np.full_like(drawn[0], 255)] * (-len(drawn) % columns)
    return np.vstack([np.hstack(drawn[i : i + columns]) for i in range(0, len(drawn), columns)])


def _draw_tile(tile: Tile, factor: int) -> np.ndarray:
    """A picture, enlarged without smoothing, with its caption and a white margin."""
    picture = tile.picture.repeat(factor, axis=0).repeat(factor, axis=1)
    caption = np.full((34, picture.shape[1], 3), 255, np.uint8)
    colour = (200, 0, 0) if tile.alert else (0, 0, 0)
    limit = picture.shape[1] // 8
    for text, baseline in zip(tile.lines, (13, 29), strict=True):
        cv2.putText(caption, text[:limit], (2, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return np.pad(np.vstack([picture, caption]), ((2, 2), (2, 2), (0, 0)), constant_values=255)
