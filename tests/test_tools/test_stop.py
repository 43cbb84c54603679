"""Runs that get a signal to stop, or lose a rank."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, TINY, assert_same_state, run


def begin(work_dir, teacher, *flags, ranks=0, rounds=200):
    """Start tools/train.py, under torchrun if there are ranks."""
    command = [sys.executable]
    if ranks:
        # torchrun chooses a free port
        command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}']
    command += [str(ROOT / 'tools/train.py'), str(TINY), '--no-validate', '--work-dir', str(work_dir), *flags]
    command += ['--launcher', 'pytorch'] if ranks else []
    command += ['--cfg-options', f'model.teacher.checkpoint={teacher}', f'train_cfg.max_iters={rounds}']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_checkpoint(work_dir, process):
    for _ in range(3000):
        if list(work_dir.glob('iter_*.pth')):
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.kill()
    raise AssertionError('no checkpoint')


def workers_of(process):
    """The process ids of the ranks that torchrun has started."""
    listing = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listing.stdout.split()]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_round_and_saves(tmp_path, tiny_cfg, teacher_checkpoint, number):
    work_dir = tmp_path / 'stopped'
    process = begin(work_dir, teacher_checkpoint)
    wait_for_checkpoint(work_dir, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    stopped = int(re.search(r'Stopped after round (\d+) of 200. Continue with', output)[1])
    assert 'finishing the round; send it again to stop at once' in output
    state = torch.load(work_dir / f'iter_{stopped}.pth', weights_only=False)
    assert state['meta']['iter'] == stopped
    command = next(line for line in output.splitlines() if '--resume' in line)
    assert re.search(rf'python\S* \S*tools/train.py \S*tiny.py .*--work-dir {work_dir} .*--resume=auto', command)
    report = json.loads((work_dir / 'report.json').read_text())
    assert report['status']['state'] == 'interrupted'
    assert report['rounds'] == dict(done=stopped, planned=200)
    assert (work_dir / 'report.html').exists()
    if number == signal.SIGTERM:  # the state is that of a run that never stopped
        whole = run(tiny_cfg, work_dir=str(tmp_path / 'whole'), train_cfg__max_iters=stopped)
        assert_same_state(dict(state['state_dict']), dict(whole.model.state_dict()))


@pytest.mark.slow
def test_two_ranks_agree_on_the_round_to_stop_at(tmp_path, teacher_checkpoint):
    """Only one of them gets the signal."""
    process = begin(tmp_path, teacher_checkpoint, ranks=2)
    wait_for_checkpoint(tmp_path, process)
    os.kill(workers_of(process)[1], signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    stopped = re.search(r'Stopped after round (\d+) of 200', output)[1]
    assert (tmp_path / f'iter_{stopped}.pth').exists()
    assert re.search(r'torchrun --nnodes=1 --nproc_per_node=2 \S*train.py \S*tiny.py .*--resume=auto', output)


@pytest.mark.slow
def test_rank_that_dies_ends_the_others_and_the_run_resumes(tmp_path, teacher_checkpoint):
    process = begin(tmp_path, teacher_checkpoint, ranks=2)
    wait_for_checkpoint(tmp_path, process)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    killed_at = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed_at < 60
    assert process.returncode != 0
    assert re.search(r'mmdfad: error: rank 0 of 2 has lost the others: .*The last checkpoint in .* is good', output), (
        output
    )
    last = max(int(path.stem[5:]) for path in tmp_path.glob('iter_*.pth'))
    resumed = begin(tmp_path, teacher_checkpoint, '--resume', ranks=2, rounds=last + 2)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert f'iter: {last}' in output
    assert (tmp_path / f'iter_{last + 2}.pth').exists()
