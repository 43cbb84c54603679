import cv2
import numpy as np
import pytest
from conftest import TINY_SEG, keep_hooks, run, write_camvid
from matplotlib.figure import Figure

from mmdfad.apis import draw_predictions
from mmdfad.apis import figure as figure_module
from mmdfad.datasets import CamVidDataset
from mmdfad.models.logits.base import LogitModel
from mmdfad.utils import DistillError

LOADER = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are drawn."""
    figures = []
    canvas = figure_module.FigureCanvasAgg
    monkeypatch.setattr(figure_module, 'FigureCanvasAgg', lambda figure: figures.append(figure) or canvas(figure))
    return figures


def student_of(cfg, tmp_path) -> str:
    keep_hooks(cfg, 'checkpoint', 'acceleration')
    run(cfg, train_cfg__max_iters=1)
    return str(tmp_path / 'run/iter_1.pth')


def test_labels_of_a_classifier(tiny_cfg, tmp_path, drawn, monkeypatch):
    """Red where student and teacher differ."""
    for i, name in enumerate('abcde' * 2):
        folder = tmp_path / 'images' / name
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i}.png'), np.full((16, 16, 3), (0, 20 * i, 255), np.uint8))  # BGR
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=pipeline)
    tiny_cfg.update(test_dataloader=LOADER | dict(dataset=dataset), test_evaluator=dict(type='Accuracy'), test_cfg={})
    student = student_of(tiny_cfg, tmp_path)
    draw_predictions(tiny_cfg, student, tmp_path / 'out.png', count=8)
    axes = [axis for axis in drawn[0].axes if axis.get_images()]
    assert len(axes) == 8
    colours = set()
    for axis in axes:
        lines = dict(line.split(': ') for line in axis.get_title(loc='left').splitlines())
        assert {*lines} == {'truth', 'teacher', 'student'}
        assert {*lines.values()} <= {*'abcde'}
        title = axis._left_title
        colours.add(title.get_color())
        assert title.get_color() == ('black' if lines['teacher'] == lines['student'] else 'red')
        assert axis.get_images()[0].get_array()[0, 0, 0] == 255  # red comes first
    assert 'red' in colours
    assert cv2.imread(str(tmp_path / 'out.png')).std() > 10
    monkeypatch.setattr(LogitModel, 'multi_label', True)
    with pytest.raises(DistillError, match='this teacher gives an image several'):
        draw_predictions(tiny_cfg, student, tmp_path / 'out.png')


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_maps_of_a_segmentor_with_the_names_of_the_classes(tiny_cfg, tmp_path, drawn):
    write_camvid(tmp_path / 'camvid')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='LoadAnnotations')]
    dataset = dict(
        type='mmdfad.CamVidDataset',
        data_root=str(tmp_path / 'camvid'),
        ann_file='train.txt',
        pipeline=[*pipeline, dict(type='PackSegInputs')],
    )
    tiny_cfg.update(test_dataloader=LOADER | dict(dataset=dataset), test_evaluator=dict(type='IoUMetric'), test_cfg={})
    draw_predictions(tiny_cfg, student_of(tiny_cfg, tmp_path), tmp_path / 'out.png', count=2)
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes[:4]] == ['test image', 'ground truth', 'teacher', 'student']
    legend = drawn[0].legends[0]
    pictures = [np.asarray(axis.get_images()[0].get_array()) for axis in axes[:12] if axis.get_title() != 'test image']
    shown = {tuple(colour) for picture in pictures[:3] for colour in picture.reshape(-1, 3)}
    patches = [tuple(round(255 * value) for value in patch.get_facecolor()[:3]) for patch in legend.get_patches()]
    assert shown - {(0, 0, 0)} <= {*patches}
    palette, classes = CamVidDataset.METAINFO['palette'], CamVidDataset.METAINFO['classes']
    names = {tuple(colour): name for name, colour in zip(classes, palette, strict=True)}
    assert [text.get_text() for text in legend.get_texts()] == [names[colour] for colour in patches]


def test_without_test_data(tiny_cfg, tmp_path):
    with pytest.raises(DistillError, match=r'with a test_dataloader of real images'):
        draw_predictions(tiny_cfg, 'x.pth', tmp_path / 'out.png')
