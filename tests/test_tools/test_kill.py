"""Law 5: a run that is killed and resumed ends with the same student."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY, assert_same_state, run
from in_process import call_here
from mmengine.config import Config
from ranks import CONTEXT, start
from ranks import train as train_ranks

from mmdfad.models.base_distiller import STUDENT_PREFIX


def train_and_die(point, target, *arguments):
    """In a process of its own, which kills itself."""
    command = [sys.executable, str(ROOT / 'tests/data/kill.py'), point, target]
    command += [str(ROOT / 'tools/train.py'), str(TINY), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, teacher_checkpoint):
    """The state of a run that is not killed."""
    cfg = Config.fromfile(TINY)
    cfg.model.teacher.checkpoint = teacher_checkpoint
    cfg.work_dir = str(tmp_path_factory.mktemp('whole'))
    return run(cfg).model.state_dict()


@pytest.mark.parametrize(
    ('point', 'target', 'resumes_from'),
    [
        pytest.param('between', '4', 'iter_4.pth', marks=pytest.mark.slow),  # in round 5
        ('half_written', 'iter_4.pth', 'iter_2.pth'),
        pytest.param('before_rename', 'iter_4.pth', 'iter_2.pth', marks=pytest.mark.slow),
        ('after_rename', 'iter_4.pth', 'iter_2.pth'),  # but before the pointer to it
        ('half_written', 'student.pth', 'nothing'),
    ],
)
def test_killed_run_resumes_to_the_same_student(tmp_path, teacher_checkpoint, whole, point, target, resumes_from):
    options = ('--no-validate', '--work-dir', str(tmp_path), '--cfg-options')
    options += (f'model.teacher.checkpoint={teacher_checkpoint}',)
    killed = train_and_die(point, target, *options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    pointer = tmp_path / 'last_checkpoint'
    assert (pointer.read_text() if pointer.exists() else 'nothing').endswith(resumes_from)
    call_here('train.py', TINY, '--resume', *options, check=True)
    state = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['state_dict']
    assert_same_state(state, dict(whole))
    student = torch.load(tmp_path / 'student.pth')['state_dict']
    trained = {k.removeprefix(STUDENT_PREFIX): v for k, v in state.items() if k.startswith('student.')}
    assert_same_state(student, trained)


@pytest.mark.slow
@pytest.mark.parametrize(('world_size', 'kills', 'rounds'), [(1, 10, 18), (2, 3, 8)])
def test_kills_at_random_moments_leave_the_same_run(eventful_cfg, tmp_path, world_size, kills, rounds):
    """With two ranks, one is killed, and the other must end, too."""
    cfg = eventful_cfg
    cfg.default_hooks.checkpoint.interval = 1
    cfg.train_cfg.max_iters = rounds
    cfg.work_dir = str(tmp_path / 'whole')
    whole = train_ranks(cfg, world_size)

    cfg.work_dir, cfg.resume = str(tmp_path / 'killed'), True
    moments = random.Random(world_size)
    resumed_from = []
    for i in range(kills):
        resumed_from.append(len(list((tmp_path / 'killed').glob('iter_*.pth'))) > 0)
        event = CONTEXT.Event()
        ranks = start(cfg, world_size, tell=(event, i % 2))
        assert event.wait(300)
        time.sleep(moments.uniform(0, 0.05))
        victim = moments.choice(ranks)
        victim.kill()
        killed_at = time.monotonic()
        for process in ranks:
            process.join(60)
            assert process.exitcode == (-signal.SIGKILL if process is victim else 1)
        assert time.monotonic() - killed_at < 60
    assert any(resumed_from)
    for ours, theirs in zip(train_ranks(cfg, world_size), whole, strict=True):
        assert_same_state(ours, theirs)
