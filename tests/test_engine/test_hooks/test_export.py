"""Law 7: the exported student."""

import json

import numpy as np
import pytest
import torch
from conftest import (
    REPORT,
    TINY_SEG,
    assert_same_state,
    both_tasks,
    build_model,
    hook_of,
    keep_hooks,
    run,
    write_camvid,
)
from mmengine.config import Config

from mmdfad.apis import export_student
from mmdfad.models.logits import as_logits


@pytest.fixture
def exporting_cfg(tiny_cfg):
    """The tiny distillation with checkpoints, acceleration and an exported student, and nothing else."""
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', 'export_student')
    return tiny_cfg


def load_with_stock_tools(folder):
    """The exported student, as mmpretrain or mmseg itself loads it, and its dataset meta."""
    config, checkpoint = str(folder / 'student.py'), str(folder / 'student.pth')
    if Config.fromfile(config).default_scope == 'mmpretrain':
        from mmpretrain import get_model

        model = get_model(config, pretrained=checkpoint)
        return model, model._dataset_meta
    from mmseg.apis import init_model

    model = init_model(config, checkpoint, device='cpu')
    return model, model.dataset_meta


@both_tasks
@pytest.mark.parametrize('ema', [False, True])
def test_exported_student_gives_the_same_logits_in_stock_tools(exporting_cfg, tmp_path, monkeypatch, ema):
    if ema:
        exporting_cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
    runner = run(exporting_cfg)
    images = torch.randn(4, 3, *runner.model.generator.image_size)
    if ema:  # as for validation, where the student is the averaged one
        hook_of(runner, 'EMAHook')._swap_ema_parameters()
    student = runner.model.student.eval()
    with torch.no_grad():
        expected = student.logits(images)

    monkeypatch.chdir(tmp_path)  # the config must stand on its own
    exported, dataset_meta = load_with_stock_tools(tmp_path / 'run')
    with torch.no_grad():
        assert torch.equal(as_logits(exported)(images), expected)
    assert dataset_meta['classes'] == list('abcde')
    config = Config.fromfile(tmp_path / 'run/student.py')
    assert config.default_scope == exporting_cfg.default_scope
    assert 'mmdfad' not in config.pretty_text
    # Strictly: the keys are those of a stock model that was just built, auxiliary heads included.
    state = torch.load(tmp_path / 'run/student.pth')['state_dict']
    assert state.keys() == build_model(config.model, config.default_scope).state_dict().keys()


@both_tasks
def test_offline_export_is_the_one_of_training(exporting_cfg, tmp_path):
    run(exporting_cfg, train_cfg__max_iters=2)
    export_student(exporting_cfg, str(tmp_path / 'run/iter_2.pth'), tmp_path / 'again')
    ours, theirs = (torch.load(tmp_path / name / 'student.pth') for name in ('run', 'again'))
    assert ours['meta'] == theirs['meta']
    assert ours['state_dict'].keys() == theirs['state_dict'].keys()
    trained = {k: v for k, v in ours['state_dict'].items() if not k.startswith('auxiliary_head')}
    assert_same_state(trained, {k: theirs['state_dict'][k] for k in trained})
    assert (tmp_path / 'run/student.py').read_text() == (tmp_path / 'again/student.py').read_text()


def test_a_run_with_other_hooks_leaves_a_student(exporting_cfg, tmp_path):
    """With each checkpoint, also the last one of a run that ends between intervals."""
    run(exporting_cfg, train_cfg__max_iters=3)
    assert torch.load(tmp_path / 'run/student.pth')['meta']['iter'] == 3


def test_exported_student_serves_the_stock_inferencer(exporting_cfg, tmp_path):
    exporting_cfg.test_dataloader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(
            type='CustomDataset',
            data_root='nowhere',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')],
        ),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    exporting_cfg.test_evaluator = dict(type='Accuracy')
    exporting_cfg.test_cfg = dict()
    run(exporting_cfg, train_cfg__max_iters=2)

    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(
        str(tmp_path / 'run/student.py'), pretrained=str(tmp_path / 'run/student.pth')
    )
    result = inferencer(np.zeros((20, 30, 3), np.uint8))[0]
    assert result['pred_class'] in list('abcde')


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_exported_segmentor_serves_the_stock_inferencer(exporting_cfg, tmp_path):
    """With the classes and the palette of the dataset, which the teacher's checkpoint names."""
    write_camvid(tmp_path / 'camvid')
    exporting_cfg.test_dataloader = dict(
        batch_size=1,
        num_workers=0,
        dataset=dict(
            type='mmdfad.CamVidDataset',
            data_root=str(tmp_path / 'camvid'),
            ann_file='train.txt',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
        ),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    exporting_cfg.test_evaluator, exporting_cfg.test_cfg = dict(type='IoUMetric'), dict()
    run(exporting_cfg, train_cfg__max_iters=2)

    from mmseg.apis import MMSegInferencer

    folder = tmp_path / 'run'
    inferencer = MMSegInferencer(str(folder / 'student.py'), str(folder / 'student.pth'), device='cpu')
    result = inferencer(np.zeros((40, 30, 3), np.uint8), return_vis=True)
    assert inferencer.visualizer.dataset_meta['classes'] == list('abcde')
    assert inferencer.visualizer.dataset_meta['palette'] == [[i * 50, 0, 255 - i * 50] for i in range(5)]
    assert result['predictions'].shape == (40, 30)
    assert result['visualization'].shape == (40, 30, 3)


def test_student_tells_where_it_comes_from(exporting_cfg, tmp_path):
    exporting_cfg.model.start = dict(type='ChannelSelection')
    exporting_cfg.default_hooks.report = dict(REPORT)
    runner = run(exporting_cfg, train_cfg__max_iters=1)
    meta = torch.load(tmp_path / 'run/student.pth', weights_only=True)['meta']
    assert meta['mmdfad']['teacher'] == runner.model.teacher_record
    assert meta['mmdfad']['method']['generator']['type'] == 'mmdfad.UpsampleGenerator'
    assert meta['mmdfad']['method']['start'] == dict(type='ChannelSelection')
    assert meta['mmdfad']['config'] == runner.cfg.filename
    assert meta['mmdfad']['versions']['torch'] == torch.__version__.partition('+')[0]
    report = json.loads((tmp_path / 'run/report.json').read_text())
    for key in ('value', 'low', 'high'):
        assert meta['predicted_agreement'][key] == pytest.approx(report['prediction'][key], abs=1e-5)

    export_student(exporting_cfg, str(tmp_path / 'run/iter_1.pth'), tmp_path / 'again')
    again = torch.load(tmp_path / 'again/student.pth', weights_only=True)['meta']
    assert again['mmdfad'] == meta['mmdfad']
    export_student(exporting_cfg, str(tmp_path / 'run/student.pth'), tmp_path / 'third')
    assert torch.load(tmp_path / 'third/student.pth', weights_only=True)['meta'] == again
