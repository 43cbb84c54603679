"""A figure of the predictions of teacher and student on real images."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmdfad.utils import DistillError

from .checkpoints import load_student_weights
from .config import add_agreement, plain_student_config

VOID = (0, 0, 0)


def draw_predictions(cfg: Config, checkpoint: str, out: str | Path, count: int = 4) -> None:
    """Draw test images, each in a row with the ground truth, the teacher's and the student's prediction.

    Args:
        cfg (Config): A distillation of a segmentor, with a ``test_dataloader`` and ``work_dir``.
        checkpoint (str): A training checkpoint, or an exported student.
        out (str | Path): The picture to write.
        count (int): Images, spread evenly over the test set. Defaults to 4.

    Raises:
        DistillError: If the config is not such a distillation.
    """
    plain = plain_student_config(cfg)
    if plain.get('test_dataloader') is None or plain.default_scope != 'mmseg':
        raise DistillError('a figure needs the config of a distillation of an mmseg segmentor, with a test_dataloader')
    both = add_agreement(cfg, plain)
    both.update(work_dir=cfg.work_dir, log_level='WARNING')
    runner = Runner.from_cfg(both)
    distiller = runner.model.eval()
    load_student_weights(distiller.student.model, checkpoint)
    dataset = runner.build_dataloader(both.test_dataloader).dataset
    palette = dataset.metainfo['palette']
    # A colour for each value in a label map. Values that are not a class are black.
    colours = np.array([*palette, *[VOID] * (256 - len(palette))], np.uint8)
    figure = Figure(figsize=(12, 2.4 * count), layout='constrained')
    axes = figure.subplots(count, 4, squeeze=False)
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    for number, (row, index) in enumerate(zip(axes, indices, strict=True)):
        panels = _panels(distiller, dataset[index], colours)
        for axis, (title, picture) in zip(row, panels.items(), strict=True):
            axis.imshow(picture, interpolation='nearest')
            axis.set_axis_off()
            axis.set_title('' if number else title)
    FigureCanvasAgg(figure).print_png(out)


def _panels(distiller: torch.nn.Module, item: dict, colours: np.ndarray) -> dict[str, np.ndarray]:
    """The four pictures of a test image, uint8 RGB."""
    with torch.no_grad():
        prediction = distiller.test_step(pseudo_collate([item]))[0]
    order = [2, 1, 0] if distiller.teacher.pixel_space.flips else [0, 1, 2]
    truth = item['data_samples'].gt_sem_seg.data[0].numpy()
    return {
        'test image': item['inputs'].numpy()[order].transpose(1, 2, 0),
        'ground truth': colours[truth],
        'teacher': colours[prediction.teacher_label.cpu().numpy()],
        'student': colours[prediction.student_label.cpu().numpy()],
    }
