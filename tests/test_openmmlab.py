"""What users of OpenMMLab expect of a package: the stock tools and functions work with it."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, build_model, run, save_teacher
from in_process import call_here
from mmengine.config import Config
from mmengine.hub import get_model


def stock(tool: str, *arguments, monkeypatch, capsys, package='mmpretrain') -> str:
    """Run a tool of mmpretrain or mmseg, and return what it prints."""
    path = str(Path(pytest.importorskip(package).__file__).parent / '.mim/tools' / tool)
    monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
    runpy.run_path(path, run_name='__main__')
    return capsys.readouterr().out


@pytest.mark.parametrize(('package', 'command'), [('mmpretrain', ['plot_curve']), ('mmseg', [])])
def test_analyze_logs(tiny_cfg, tmp_path, monkeypatch, capsys, package, command):
    run(tiny_cfg, train_cfg__max_iters=2)
    log = next((tmp_path / 'run').glob('*/vis_data/scalars.json'))
    first = json.loads(log.read_text().splitlines()[0])
    assert first['lr'] == first['student.lr']
    out = tmp_path / 'curve.png'
    monkeypatch.setenv('MPLBACKEND', 'agg')
    text = stock(
        'analysis_tools/analyze_logs.py',
        *(*command, log, '--keys', 'imitation_loss', '--out', out),
        package=package,
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    assert f'save curve to: {out}' in text
    assert out.stat().st_size > 1000


def test_print_config(monkeypatch, capsys):
    config = ROOT / 'configs/ils/ils_lenet5-lenet5half_1xb64_mnist5k.py'
    text = stock('misc/print_config.py', config, monkeypatch=monkeypatch, capsys=capsys)
    assert "type='mmdfad.AdversarialDistiller'" in text


def test_get_flops_of_a_plain_torch_model(monkeypatch, capsys):
    config = ROOT / 'examples/resnet20_cifar10.py'
    arguments = ('analysis_tools/get_flops.py', config, '--shape', '32')
    assert 'Flops: 40.928M' in stock(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def test_get_model_of_the_hub(tmp_path, monkeypatch):
    checkpoint = tmp_path / 'work_dirs/lenet5_mnist5k/epoch_20.pth'
    checkpoint.parent.mkdir(parents=True)
    config = Config.fromfile(ROOT / 'configs/teachers/lenet5_mnist5k.py')
    torch.save(build_model(config.model).state_dict(), checkpoint)
    monkeypatch.chdir(tmp_path)
    model = get_model('mmdfad::dfad/dfad_lenet5-lenet5half_1xb128_mnist5k.py')
    assert type(model).__name__ == 'AdversarialDistiller'


LAZY = """
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet_CIFAR

default_scope = 'mmpretrain'
model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet_CIFAR, depth=18, base_channels=8, stem_channels=8),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=5, in_channels=64),
    data_preprocessor=dict(mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True),
)
"""


@pytest.mark.slow
def test_a_pure_python_teacher_is_shrunk(tmp_path):
    (tmp_path / 'lazy.py').write_text(LAZY)
    checkpoint = save_teacher(tmp_path / 'teacher.pth')
    words = ['--teacher', 'lazy.py', '--checkpoint', checkpoint, '--student', 'auto:0.5', '--image-size', 16, 16]
    call_here('distill.py', *words, '--rounds', 3, '--method', 'dfad', '--no-validate', cwd=tmp_path, check=True)
    student = Config.fromfile(tmp_path / 'work_dirs/lazy_to_auto-0-5/student.py').model
    assert student.backbone.base_channels == 4


@pytest.mark.parametrize('beside', ['config', 'working directory'])
def test_cfg_path_counts_from_the_config_or_else_from_the_working_directory(tmp_path, teacher_checkpoint, beside):
    folder = tmp_path / 'configs'
    folder.mkdir()
    (folder if beside == 'config' else tmp_path).joinpath('teacher.py').write_text(LAZY)
    text = f"_base_ = '{TINY}'\ntrain_cfg = dict(max_iters=1)\ndefault_hooks = dict(report=None)\n"
    text += f"model = dict(teacher=dict(_delete_=True, cfg_path='teacher.py', checkpoint='{teacher_checkpoint}'))\n"
    (folder / 'run.py').write_text(text)
    call_here('train.py', folder / 'run.py', '--work-dir', tmp_path / 'run', '--no-validate', cwd=tmp_path, check=True)
    assert (tmp_path / 'run/student.pth').exists()
