"""The benchmark measures what it says. Its numbers are those of a busy machine here, and are not looked at."""

import json

import pytest
from test_cli import call


@pytest.fixture(scope='module')
def result(tmp_path_factory) -> dict:
    file = tmp_path_factory.mktemp('benchmark') / 'lenet.json'
    done = call('analysis_tools/benchmark_rounds.py', '--pair', 'lenet', '--repeats', 1, '--scaling', '--json', file)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def test_ratios_are_those_of_the_times(result):
    seconds = result['seconds']
    assert all(value > 0 for value in seconds.values())
    assert result['ratio_fp32'] == seconds['naive'] / seconds['fp32']
    assert result['ratio_default'] == seconds['naive'] / seconds['default']
    assert result['overhead'] == seconds['default'] / seconds['bare'] - 1
    memory = result['peak_memory_bytes']
    assert result['memory_ratio'] == memory['default'] / memory['naive']
    assert min(memory.values()) > 10 * 2**20


def test_parts_of_a_round(result):
    parts = {'forward', 'backward', 'step', 'rest'}
    assert {key.rpartition(' ')[2] for key in result['split']} == parts
    assert sum('imitation' in key for key in result['split']) == 5
    assert sum('generation' in key for key in result['split']) == 6


def test_operations_of_a_round_are_counted(result):
    """By hand, of multiply-adds: what each player's layers take for an image, forward and in the passes back."""
    upsampled = 16 * 16 * 4 * 16**2 + 16 * 8 * 4 * 32**2  # 4 of the 9 taps are left
    generator = 100 * 16 * 64 + upsampled + 8 * 9 * 32**2
    teacher, student = 416_520, 134_000  # as logged at the end of the demo
    images = 128 * (10 + 1)
    forward = 2 * images * (generator + teacher + student)
    assert forward < result['flops_per_round'] < 3 * forward
    assert result['achieved_gflops'] == result['flops_per_round'] / result['seconds']['default'] / 1e9


def test_scaling_of_what_the_pair_lets_vary(result):
    assert {key: list(values) for key, values in result['scaling'].items()} == dict(
        batch=['64', '128', '256'], imitation_steps=['10', '20', '30']
    )
