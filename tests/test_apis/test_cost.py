"""The memory that a run is expected to need."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from mmengine.config import Config
from tiny_configs import write_tiny

from mmdfad.apis.choices import Choices
from mmdfad.apis.cost import Cost, explain_memory

MIB = 2**20
COST = Cost(generation=0.8, imitation=0.5, forward=0.4, place='on paper', memory=1536 * MIB)


def test_images_that_are_kept_come_on_top_and_twice_more_in_a_checkpoint():
    choices = Choices()
    explain_memory(choices, COST, images=256 * MIB)
    assert choices.lines == [
        'expected memory = 2.25 GiB: 1.50 GiB at the peak of the timed steps on paper, 256 MiB for the images that '
        'the generator keeps, 512 MiB for their copies while a checkpoint is written; the start and validation may '
        'take more'
    ]


def test_without_such_images_it_is_what_the_steps_need():
    choices = Choices()
    explain_memory(choices, COST)
    reason = '1.50 GiB at the peak of the timed steps on paper; the start and validation may take more'
    assert choices.lines == [f'expected memory = 1.50 GiB: {reason}']


@pytest.mark.slow
def test_a_run_needs_about_as_much(tmp_path, teacher_checkpoint):
    """A process that measures steps, explains the result, and runs."""
    teacher = write_tiny(tmp_path, 'teacher', pixels=32)
    command = [sys.executable, ROOT / 'tools/distill.py', '--teacher', teacher, '--checkpoint', teacher_checkpoint]
    command += ['--student', 'auto:0.5', '--rounds', '4', '--batch-size', '64', '--work-dir', tmp_path / 'run']
    command += ['--no-validate', '--cfg-options', 'model.start.images=16', 'default_hooks.report=None']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    with open(tmp_path / 'out', 'w+') as output:
        process = subprocess.Popen(map(str, command), cwd=ROOT, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text
    number, unit = re.search(r'expected memory = ([\d.]+) ([MG]iB)', text).groups()
    used = usage.ru_maxrss / (MIB if unit == 'GiB' else 1024)
    assert float(number) == pytest.approx(used, rel=0.3)
    pool = Config.fromfile(tmp_path / 'run.py').model.generator.generator
    # The first batch of the pool was there when the steps were timed.
    kept = (pool.capacity - 64) * 3 * 32 * 32 * 4 / MIB
    assert f'{kept:.0f} MiB for the images that the generator keeps' in text
