"""Checkpoints may come from anyone. Reading one never runs code."""

import argparse
import os
import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, build_runner, run
from in_process import call_here
from mmengine.config import Config

from mmdfad.apis import export_student
from mmdfad.utils import DistillError
from mmdfad.utils.checkpoint import only_weights, read_checkpoint


class Program:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    mark = tmp_path / 'ran'
    yield mark
    assert not mark.exists()
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


def poison(path, source, mark, key='meta'):
    content = torch.load(source, weights_only=False)
    content[key] = dict(content.get(key, {}), extra=Program(mark))
    torch.save(content, path)
    return str(path)


REFUSED = r'holds more than weights: reading it would run \S*mkdir, which could do anything'


@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_checkpoints_of_networks_run_nothing(tiny_cfg, tmp_path, teacher_checkpoint, mark, role):
    bad = poison(tmp_path / 'bad.pth', teacher_checkpoint, mark)
    with pytest.raises(DistillError, match=rf'model.{role}.checkpoint=\S*bad.pth\S* {REFUSED}'):
        build_runner(tiny_cfg, **{f'model__{role}__checkpoint': bad})


@pytest.mark.parametrize('resume', [True, False])
def test_training_checkpoints_run_nothing(tiny_cfg, tmp_path, mark, resume):
    run(tiny_cfg, train_cfg__max_iters=2)
    bad = poison(tmp_path / 'bad.pth', tmp_path / 'run/iter_2.pth', mark, 'message_hub')
    with pytest.raises(DistillError, match=REFUSED):
        run(tiny_cfg, load_from=bad, resume=resume)
    with pytest.raises(DistillError, match=REFUSED):
        export_student(tiny_cfg, bad, tmp_path / 'out')


def test_latest_checkpoint_runs_nothing(tiny_cfg, tmp_path, mark):
    run(tiny_cfg, train_cfg__max_iters=2)
    latest = tmp_path / 'run/iter_2.pth'
    poison(latest, latest, mark)
    with pytest.raises(DistillError, match=REFUSED):
        run(tiny_cfg, resume=True)


def test_users_may_trust_a_file(tmp_path, monkeypatch):
    torch.save(dict(state_dict={}, meta=argparse.Namespace(epoch=3)), tmp_path / 'trusted.pth')
    path = str(tmp_path / 'trusted.pth')
    with pytest.raises(DistillError, match=r'would run argparse.Namespace.*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'):
        read_checkpoint(path, 'it')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert read_checkpoint(path, 'it')['meta'].epoch == 3


@pytest.mark.parametrize(
    ('switch', 'value'),
    [
        ('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0'),
        ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0'),
        ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'True'),  # torch 2.9 takes it for off
    ],
)
def test_switches_of_torch_do_not_let_code_run(tmp_path, monkeypatch, switch, value):
    torch.save(dict(state_dict={}, meta=argparse.Namespace(epoch=3)), tmp_path / 'unknown.pth')
    monkeypatch.setenv(switch, value)
    with pytest.raises(DistillError, match=r'would run argparse\.Namespace'), only_weights():
        torch.load(tmp_path / 'unknown.pth', weights_only=False)  # as mmengine does when torch refuses
    assert os.environ[switch] == value


def test_files_for_checkpoints_stay_in_their_folder(tiny_cfg):
    with pytest.raises(DistillError, match=r"filename_tmpl must be a name without folders, but found '../iter_{}.pth'"):
        build_runner(tiny_cfg, default_hooks__checkpoint__filename_tmpl='../iter_{}.pth')


PLAIN = """
default_scope = 'mmpretrain'
model = {model!r}
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(
    type='CustomDataset', data_root='images', pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""
STOCK_HOOK = "default_hooks=dict(checkpoint=dict(_delete_=True, type='CheckpointHook', interval=1, by_epoch=False))"
PRETRAINED = "model['backbone']['init_cfg'] = "


@pytest.mark.parametrize('gadget', [os.mkdir, os.makedirs, exec])
@pytest.mark.parametrize(
    ('kind', 'lines', 'flags'),
    [
        ('plain', '', ['--resume', 'bad.pth']),
        ('plain', "load_from = 'bad.pth'", []),
        ('plain', f"{PRETRAINED}[dict(type='Pretrained', checkpoint='bad.pth')]", []),
        ('plain', f"{PRETRAINED}dict(type='mmengine.Pretrained', checkpoint='bad.pth')", []),
        ('plain', f"{PRETRAINED}dict(type='mmengine.model.PretrainedInit', checkpoint='bad.pth')", []),
        ('distillation', f"load_from = 'bad.pth'\n{STOCK_HOOK}", []),
        ('distillation', "load_from = 'bad.pth'\ndefault_hooks = dict(checkpoint=None)", []),
        ('distillation', f'{STOCK_HOOK}', ['--resume', 'bad.pth']),
    ],
)
def test_no_way_of_loading_runs_code(tmp_path, teacher_checkpoint, gadget, kind, lines, flags):
    """Wherever the code is in the file."""
    mark = tmp_path / 'ran'

    class Gadget:
        def __reduce__(self):
            return gadget, (f'import os; os.mkdir({str(mark)!r})' if gadget is exec else str(mark),)

    content = dict(state_dict=torch.load(teacher_checkpoint)['state_dict'], meta={}, optimizer={}, message_hub={})
    place = random.Random(f'{gadget}{kind}{lines}').choice([*content, 'anything'])
    content[place] = dict(content.get(place, {}), extra=[Gadget()])
    torch.save(content, tmp_path / 'bad.pth')
    for name in 'abcde':
        (tmp_path / 'images' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f'images/{name}/1.png'), np.zeros((16, 16, 3), np.uint8))
    model = {key: value for key, value in Config.fromfile(TINY).model.teacher.to_dict().items() if key != 'checkpoint'}
    text = PLAIN.format(model=model)
    if kind == 'distillation':
        text = f"_base_ = '{TINY}'\nmodel = dict(teacher=dict(checkpoint='{teacher_checkpoint}'))\n"
    (tmp_path / 'config.py').write_text(f'{text}{lines}\n')
    result = call_here('train.py', 'config.py', '--work-dir', 'run', '--no-validate', *flags, cwd=tmp_path)
    assert not mark.exists()
    assert re.search(r'holds more than weights: reading it would run ', result.stderr), result.stderr[-500:]
    assert 'Traceback' not in result.stderr


def test_weights_that_a_config_would_load_are_left_out(tmp_path, tiny_cfg):
    """Whatever init_cfg calls it: those of teacher and student come from their checkpoints."""
    bad = str(tmp_path / 'nowhere.pth')
    for init in (dict(type='mmengine.Pretrained', checkpoint=bad), [dict(type='PretrainedInit', checkpoint=bad)]):
        tiny_cfg.model.student.backbone.init_cfg = init
        build_runner(tiny_cfg)
