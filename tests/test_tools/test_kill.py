"""Law 5, the hard way: a run that is killed goes on to the same student."""

import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, assert_same_state, run


def train(*arguments, wrapper=()):
    command = [sys.executable, *wrapper, str(ROOT / 'tools/train.py'), str(TINY), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, teacher_checkpoint):
    """The undisturbed run."""
    from mmengine.config import Config

    cfg = Config.fromfile(TINY)
    cfg.model.teacher.checkpoint = teacher_checkpoint
    cfg.work_dir = str(tmp_path_factory.mktemp('whole'))
    return run(cfg).model.state_dict()


@pytest.mark.parametrize(
    ('point', 'target', 'resumes_from'),
    [
        ('between', '4', 'iter_4.pth'),  # in round 5
        ('half_written', 'iter_4.pth', 'iter_2.pth'),
        ('before_rename', 'iter_4.pth', 'iter_2.pth'),
        ('after_rename', 'iter_4.pth', 'iter_2.pth'),  # but before the pointer to it
        ('half_written', 'student.pth', 'nothing'),
    ],
)
def test_killed_run_resumes_to_the_same_student(tmp_path, teacher_checkpoint, whole, point, target, resumes_from):
    options = ('--no-validate', '--work-dir', str(tmp_path), '--cfg-options')
    options += (f'model.teacher.checkpoint={teacher_checkpoint}',)
    killed = train(*options, wrapper=(str(ROOT / 'tests/data/kill.py'), point, target))
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    pointer = tmp_path / 'last_checkpoint'
    assert (pointer.read_text() if pointer.exists() else 'nothing').endswith(resumes_from)
    resumed = train('--resume', *options)
    assert resumed.returncode == 0, resumed.stderr
    state = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['state_dict']
    assert_same_state(state, dict(whole))
    student = torch.load(tmp_path / 'student.pth')['state_dict']
    assert_same_state(student, {k[len('student.model.') :]: v for k, v in state.items() if k.startswith('student.')})
