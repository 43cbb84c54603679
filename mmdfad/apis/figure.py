"""A figure of the predictions of teacher and student on real images."""

from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement

from mmdfad.engine import SafeRunner
from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.utils import DistillError, require_count
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.export import has_real_data

from .checkpoints import load_student_weights
from .config import add_agreement, is_distillation, plain_student_config
from .validation import require_test_data

VOID = (0, 0, 0)


def draw_predictions(cfg: Config, checkpoint: str, out: str | Path, count: int = 4, download: bool = False) -> None:
    """Draw test images with what the data say, and what teacher and student say.

    Each image of a classifier has three labels, which are red if student and teacher differ. Each one of a segmentor is
    a row: the image, the ground truth, and both label maps, above the colours of the classes.

    Args:
        cfg (Config): A distillation with a ``test_dataloader`` and ``work_dir``.
        checkpoint (str): A training checkpoint, or an exported student.
        out (str | Path): The picture to write.
        count (int): Images, spread evenly over the test set. Defaults to 4.
        download (bool): Let the test data download themselves if they are missing. Defaults to False.

    Raises:
        DistillError: If the config is not that of a distillation, or has no test data.
    """
    require_count('--count', count, 1)
    if Path(out).suffix != '.png':
        raise DistillError(f'--out must be a .png file, but found {out}')
    plain = plain_student_config(cfg)
    if not is_distillation(cfg) or not has_real_data(plain):
        raise DistillError('a figure needs the config of a distillation, with a test_dataloader of real images')
    require_test_data(plain, download)
    both = add_agreement(cfg, plain)
    both.update(work_dir=cfg.work_dir, log_level='WARNING')
    runner = SafeRunner.from_cfg(both)
    distiller = runner.model.eval()
    if distiller.teacher.logits.multi_label:
        raise DistillError('one label of each image is drawn, but this teacher gives an image several')
    load_student_weights(distiller.student.model, checkpoint)
    dataset = runner.build_dataloader(both.test_dataloader).dataset
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    items = [dataset[index] for index in indices]
    draw = _draw_labels if distiller.teacher.logits.ndim == 2 else _draw_maps
    content = BytesIO()
    FigureCanvasAgg(draw(distiller, items, dataset.metainfo)).print_png(content)
    atomic_write(out, content.getvalue())


def _draw_labels(distiller: BaseDistiller, items: Sequence[dict], meta: dict) -> Figure:
    """A classifier's images with their labels."""
    columns = min(len(items), 6)
    rows = -(-len(items) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.9 * rows), layout='constrained')
    figure.get_layout_engine().set(h_pad=0.12)  # inches: titles of three lines are cut without it
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, item in zip_longest(axes, items):
        axis.set_axis_off()
        if item is not None:
            sample = _predict(distiller, item)
            labels = [int(sample.gt_label), int(sample.teacher_label), int(sample.student_label)]
            names = [meta['classes'][label] if meta.get('classes') else label for label in labels]
            axis.imshow(_picture(distiller, item), interpolation='nearest')
            title = 'truth: {}\nteacher: {}\nstudent: {}'.format(*names)
            axis.set_title(title, fontsize=9, loc='left', color='black' if labels[1] == labels[2] else 'red')
    return figure


def _draw_maps(distiller: BaseDistiller, items: Sequence[dict], meta: dict) -> Figure:
    """A segmentor's images with their label maps."""
    palette, names = meta['palette'], meta['classes']
    # A colour for each value in a label map. Values that are not a class are black.
    colours = np.array([*palette, *[VOID] * (256 - len(palette))], np.uint8)
    figure = Figure(figsize=(12, 2.4 * len(items) + 0.6), layout='constrained')
    seen = set()
    for number, (row, item) in enumerate(zip(figure.subplots(len(items), 4, squeeze=False), items, strict=True)):
        sample = _predict(distiller, item)
        truth = item['data_samples'].gt_sem_seg.data[0].numpy()
        maps = [truth, sample.teacher_label.cpu().numpy(), sample.student_label.cpu().numpy()]
        seen.update(label for labels in maps for label in np.unique(labels).tolist())
        pictures = [_picture(distiller, item), *(colours[labels] for labels in maps)]
        titles = ('test image', 'ground truth', 'teacher', 'student')
        for axis, title, picture in zip(row, titles, pictures, strict=True):
            axis.imshow(picture, interpolation='nearest')
            axis.set_axis_off()
            axis.set_title('' if number else title)
    shown = [label for label in sorted(seen) if label < len(names)]
    handles = [Patch(color=colours[label] / 255, label=names[label]) for label in shown]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 9), frameon=False)
    return figure


def _predict(distiller: BaseDistiller, item: dict) -> BaseDataElement:
    with torch.no_grad():
        return distiller.test_step(pseudo_collate([item]))[0]


def _picture(distiller: BaseDistiller, item: dict) -> np.ndarray:
    """The image as uint8 RGB [H, W, 3]. Images of one channel are grey."""
    image = item['inputs'].numpy()
    if len(image) == 1:
        image = image.repeat(3, 0)
    return (image[::-1] if distiller.teacher.pixel_space.flips else image).transpose(1, 2, 0)
