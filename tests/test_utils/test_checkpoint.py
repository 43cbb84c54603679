"""Checkpoints may come from anyone. Reading one never runs code."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from conftest import build_runner, run

from mmdfad.apis import export_student
from mmdfad.utils import DistillError
from mmdfad.utils.checkpoint import read_checkpoint


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


def test_files_for_checkpoints_stay_in_their_folder(tiny_cfg):
    with pytest.raises(DistillError, match=r"filename_tmpl must be a name without folders, but found '../iter_{}.pth'"):
        build_runner(tiny_cfg, default_hooks__checkpoint__filename_tmpl='../iter_{}.pth')
