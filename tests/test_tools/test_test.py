"""tools/test.py has the flags of the test.py of mmpretrain and mmseg."""

import os
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import ranks
import torch
from conftest import TINY, TINY_SEG, build_model, write_camvid
from in_process import call_here
from mmengine.config import Config
from mmengine.fileio import load

from mmdfad.apis import augment_test
from mmdfad.utils.export import student_config, write_student

METRIC = re.compile(r'(?:accuracy/top1|mIoU): ([0-9.]+)')


@pytest.fixture
def classifier(tmp_path) -> list[Path]:
    """The files of an exported classifier with test images."""
    for i in range(6):
        path = tmp_path / f'images/{"abc"[i % 3]}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')]
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path / 'images'), pipeline=pipeline)
    return write(tmp_path, TINY, 'mmpretrain', dataset, dict(type='mmpretrain.Accuracy'))


@pytest.fixture
def segmentor(tmp_path) -> list[Path]:
    """The same of a segmentor."""
    write_camvid(tmp_path / 'camvid')
    steps = ('LoadImageFromFile', 'mmseg.LoadAnnotations', 'mmseg.PackSegInputs')
    pipeline = [dict(type=step) for step in steps]
    dataset = dict(
        type='mmdfad.CamVidDataset', data_root=str(tmp_path / 'camvid'), ann_file='train.txt', pipeline=pipeline
    )
    return write(tmp_path, TINY_SEG, 'mmseg', dataset, dict(type='mmseg.IoUMetric', iou_metrics=['mIoU']))


def write(folder: Path, path: Path, scope: str, dataset: dict, metric: dict) -> list[Path]:
    torch.manual_seed(0)
    cfg = Config.fromfile(path)
    cfg.model.student.pop('pretrained', None)
    student = Config(dict(model=cfg.model.student, default_scope=scope))
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
    run = Config(dict(test_dataloader=loader, test_evaluator=[metric], test_cfg=dict(), default_scope=scope))
    state = build_model(student.model, scope).state_dict()
    return [*write_student(folder, student_config(run, student), state, {})]


def metric_of(result) -> float:
    found = METRIC.findall(result.stdout + result.stderr)
    assert found, result.stderr
    return float(found[-1])


def test_pictures_metrics_and_flips(classifier, tmp_path):
    flags = ['--work-dir', tmp_path / 'test', '--no-pin-memory', '--show-dir', tmp_path / 'shown', '--interval', 2]
    result = call_here('test.py', *classifier, *flags, '--out', tmp_path / 'm.json', '--out-item', 'metrics')
    assert load(tmp_path / 'm.json')['accuracy/top1'] == pytest.approx(metric_of(result), abs=1e-3)
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 3
    result = call_here('test.py', *classifier, '--work-dir', tmp_path / 'test', '--tta', '--out', tmp_path / 'p.pkl')
    assert 0 <= metric_of(result) <= 100
    assert len(load(tmp_path / 'p.pkl')) == 6


def test_mixed_precision_and_a_window(classifier, tmp_path, monkeypatch):
    """Without a screen, matplotlib's Agg takes the place of the window."""
    monkeypatch.setenv('MPLBACKEND', 'agg')
    flags = ['--work-dir', tmp_path / 'test', '--amp', '--show', '--wait-time', '0.01']
    result = call_here('test.py', *classifier, *flags, check=True)
    assert 0 <= metric_of(result) <= 100
    (dumped,) = (tmp_path / 'test').glob('*.py')
    assert Config.fromfile(dumped).test_cfg.fp16
    assert dumped.name != 'student.py'  # which is that of an exported student


@pytest.mark.parametrize('files', ['classifier', 'segmentor'])
def test_stock_tools_measure_the_same(files, tmp_path, monkeypatch, request):
    files = request.getfixturevalue(files)
    ours = metric_of(call_here('test.py', *files, '--work-dir', tmp_path / 'ours', check=True))
    package = 'mmpretrain' if files[0].read_text().count('mmpretrain') else 'mmseg'
    path = str(Path(pytest.importorskip(package).__file__).parent / '.mim/tools/test.py')
    monkeypatch.setattr(sys, 'argv', [path, *map(str, files), '--work-dir', str(tmp_path / 'stock')])
    runpy.run_path(path, run_name='__main__')
    (metrics,) = map(load, (tmp_path / 'stock').glob('*/*.json'))
    assert next(value for key, value in metrics.items() if key in ('accuracy/top1', 'mIoU')) == pytest.approx(
        ours, abs=0.01
    )


def test_segmentors_too(segmentor, tmp_path):
    result = call_here('test.py', *segmentor, '--work-dir', tmp_path / 'test', '--tta', '--show-dir', tmp_path / 's')
    assert 0 <= metric_of(result) <= 100
    assert list((tmp_path / 's').rglob('*.png'))


@pytest.mark.parametrize(
    'flags',
    [['--out-item', 'pred'], ['--tta', '--agreement'], ['--out', 'p.json'], ['--out', 'm', '--out-item', 'metrics']],
)
def test_flags_that_do_not_fit_together(classifier, flags):
    result = call_here('test.py', *classifier, *flags)
    assert result.returncode == 2
    assert 'test.py: error: --' in result.stderr


def as_rank(rank: int, port: int, arguments: list, out: str) -> None:
    variables = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({key: str(value) for key, value in variables.items()})
    torch.set_num_threads(1)
    result = call_here('test.py', *arguments, '--launcher', 'pytorch', '--out', out, '--out-item', 'metrics')
    Path(f'{out}.{rank}').write_text(result.stderr)


def test_two_ranks_measure_the_same(classifier, tmp_path):
    """On CPUs, too: mmengine's own wrapper would look for an accelerator."""
    port = ranks.free_port()
    arguments = [*classifier, '--work-dir', tmp_path / 'test']
    call_here('test.py', *arguments, '--out', tmp_path / 'one.json', '--out-item', 'metrics')
    started = [
        ranks.CONTEXT.Process(target=as_rank, args=(rank, port, arguments, str(tmp_path / 'two.json')))
        for rank in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert (tmp_path / 'two.json').exists(), (tmp_path / 'two.json.0').read_text()
    assert load(tmp_path / 'two.json') == load(tmp_path / 'one.json')


def test_augmentations_of_the_run(segmentor):
    plain, run = Config.fromfile(segmentor[0]), Config(dict(tta_pipeline=['steps'], tta_model=dict(type='Own')))
    augment_test(plain, run)
    assert plain.model.type == 'Own'
    assert plain.test_dataloader.dataset.pipeline == ['steps']
