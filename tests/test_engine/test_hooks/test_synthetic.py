from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_SEG, hook_of, keep_hooks, run

from mmdfad.engine.hooks.synthetic import Tile, draw_grid
from mmdfad.engine.probe import to_pictures


def run_with_grids(cfg, max_iters, **settings):
    """Run with grids of images, and nothing else."""
    keep_hooks(cfg, 'acceleration', 'synthetic_images')
    cfg.default_hooks.synthetic_images.update(settings)
    return run(cfg, train_cfg__max_iters=max_iters)


def test_grids_go_to_every_backend(tiny_cfg, tmp_path):
    tiny_cfg.visualizer.vis_backends += [dict(type='TensorboardVisBackend')]
    run_with_grids(tiny_cfg, 3, interval=2, num_images=7, min_tile=40)
    files = sorted((tmp_path / 'run').glob('*/vis_data/vis_image/synthetic_*.png'))
    assert [file.name for file in files] == ['synthetic_2.png', 'synthetic_3.png']
    grid = cv2.imread(str(files[0]))
    # 7 tiles of 16 pixels, enlarged by 3, with caption and margin, in 5 columns
    assert grid.shape == (2 * (48 + 34 + 4), 5 * (48 + 4), 3)
    events = next((tmp_path / 'run').glob('*/vis_data/events.out.tfevents*'))
    assert b'synthetic' in events.read_bytes()


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_grids_of_segmentors_show_both_label_maps_in_the_palette(tiny_cfg, tmp_path):
    runner = run_with_grids(tiny_cfg, 1, interval=2, num_images=3, min_tile=1)
    grid = cv2.imread(str(next((tmp_path / 'run').glob('*/vis_data/vis_image/synthetic_1.png'))))[..., ::-1]
    _, student, teacher = runner.model.probe(hook_of(runner, 'SyntheticImageHook').noise)
    palette = np.array(runner.model.teacher.dataset_meta['palette'])
    height, width = runner.model.generator.image_size
    for i, labels in ((1, teacher.argmax(1)), (2, student.argmax(1))):
        column = grid[2 : 2 + height, 2 + i * width : 2 + (i + 1) * width]
        assert np.array_equal(column, palette[labels[0].numpy()])


def test_grid_shows_images_and_marks_disagreement():
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[0, ..., 0], pictures[1, ..., 2] = 255, 255
    tiles = [Tile(pictures[0], ('T cat', 'S cat'), False), Tile(pictures[1], ('T cat', 'S dog'), True)]
    grid = draw_grid(tiles, min_tile=64)
    height, width = grid.shape[0], grid.shape[1] // 2
    assert (grid[2:66, 2:66] == [255, 0, 0]).all()
    assert (grid[2:66, width + 2 : width + 66] == [0, 0, 255]).all()
    agree, differ = grid[66:height, :width].astype(int), grid[66:height, width:].astype(int)
    assert (agree.max(axis=2) - agree.min(axis=2)).max() == 0  # black on white
    assert (differ[..., 0] - differ[..., 1]).max() > 100  # red


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_any_number_of_channels_is_shown(channels):
    images = torch.full((2, channels, 4, 5), 60.0)
    space = SimpleNamespace(to_rgb=lambda values: values.to(torch.uint8))
    pictures = to_pictures(SimpleNamespace(teacher=SimpleNamespace(pixel_space=space)), images)
    assert pictures.shape == (2, 4, 5, 3)
    assert pictures.dtype == np.uint8
    assert (pictures == 60).all()
