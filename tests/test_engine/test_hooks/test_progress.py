"""Training in a real terminal, and without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, assert_same_state
from terminal import run_in_terminal, screen

from mmdfad.engine.hooks.progress import Estimate

# Three rounds of images, a start, three of imitation.
CONFIG = """
_base_ = '{base}'
model = dict(
    teacher=dict(checkpoint='{teacher}'),
    start=dict(type='mmdfad.LeastSquaresStart', images=16, batch_size=8, begin=3),
)
train_cfg = dict(
    max_iters=6,
    val_begin=4,
    val_interval=2,
    phases=[dict(name='generation', end=3), dict(name='imitation', steps=2, begin=3)],
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(type='mmdfad.NoiseDataset', seed=1, length=32),
    sampler=dict(type='mmdfad.NoiseSampler'),
)
val_evaluator = dict(type='mmdfad.AgreementMetric')
val_cfg = dict()
default_hooks = dict(report=None)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory, teacher_checkpoint) -> Path:
    folder = tmp_path_factory.mktemp('progress')
    (folder / 'tiny.py').write_text(CONFIG.format(base=TINY, teacher=teacher_checkpoint))
    return folder


def command(folder: Path, name: str, *options: str) -> list[object]:
    options = ['--cfg-options', *options] if options else []
    return [sys.executable, ROOT / 'tools/train.py', folder / 'tiny.py', '--work-dir', folder / name, *options]


@pytest.fixture(scope='module')
def shown(folder):
    """A whole run in a terminal."""
    ended = run_in_terminal(command(folder, 'shown'))
    assert ended.status == 0, ended.output
    assert ended.same_settings
    return ended.output


def messages(text: str) -> list[str]:
    """What was logged, without times and numbers that differ from run to run."""
    found = re.findall(r'^\S+ \S+ - mmengine - \w+ - (.*)$', text, re.MULTILINE)
    return [re.sub(r'(\w*time|eta): \S+', r'\1', message).strip() for message in found if message]


def test_the_bar_shows_phases_rounds_and_the_time_left(shown):
    text = re.sub(r'\x1b\[[\d;]*[A-Za-z]', '', shown)
    states = re.findall(r'(\w+): (rounds|layers|batches) (\d+) of (\d+)', text)
    # Those that are drawn however fast the machine is: each begins a phase.
    order = [
        ('images', 'rounds', '0', '6'),
        ('start', 'rounds', '3', '6'),
        ('start', 'layers', '0', '18'),
        ('imitation', 'rounds', '3', '6'),
        ('imitation', 'rounds', '4', '6'),
        ('validation', 'batches', '0', '4'),
        ('imitation', 'rounds', '6', '6'),
    ]
    places = [states.index(state) for state in order]
    assert places == sorted(places)
    assert re.search('imitation: rounds 6 of 6 +━+ 0:00:00 left', text)


def test_lines_are_whole_and_no_bar_stays(shown, folder):
    lines = screen(shown)
    log = next((folder / 'shown').glob('*/*.log')).read_text()
    assert [m for m in messages('\n'.join(lines)) if 'Round' in m or 'Least' in m] == [
        m for m in messages(log) if 'Round' in m or 'Least' in m
    ]
    assert sum('Round(train)' in line for line in lines) == 6
    assert sum('Iter(val)' in line for line in lines) == 2  # a line for each
    assert not re.search('[━╸╺]', '\n'.join(lines))


def test_without_a_terminal_the_same_lines_and_results(shown, folder):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}  # as in the terminal
    plain = [*map(str, command(folder, 'plain'))]
    result = subprocess.run(plain, cwd=ROOT, text=True, capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert not re.search(r'[\x00-\x08\x0b-\x1f━╸╺]', result.stdout + result.stderr)
    assert messages(result.stdout.replace('plain', 'shown'))[-20:] == messages('\n'.join(screen(shown)))[-20:]
    states = [torch.load(folder / name / 'student.pth')['state_dict'] for name in ('shown', 'plain')]
    assert_same_state(*states)


def test_a_signal_leaves_a_clean_terminal(folder):
    ended = run_in_terminal(command(folder, 'stopped', 'train_cfg.max_iters=2000'), stop_at='start: rounds 3 of 2000')
    assert ended.status == 0, ended.output
    assert ended.same_settings
    lines = screen(ended.output)
    assert 'SIGTERM: finishing the round; send it again to stop at once' in lines
    assert any('Stopped after round ' in line for line in lines)
    assert not re.search('[━╸╺]', '\n'.join(lines))


def test_the_estimate_knows_kinds_of_rounds():
    estimate = Estimate(['images'] * 10 + ['imitation'] * 100)
    assert estimate.text() == ''
    for seconds in (1, 3):
        estimate.add('images', seconds)
        estimate.left['images'] -= 1
    assert estimate.text() == 'at least 0:00:16 left'
    estimate.left['images'] = 0
    assert estimate.text() == ''
    estimate.add('imitation', 30)
    assert estimate.text() == '0:50:00 left'
    estimate.left['imitation'] = 0
    assert estimate.text() == '0:00:00 left'
