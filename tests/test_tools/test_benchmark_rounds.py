"""What the benchmark reports. The seconds themselves are not checked, because tests run on busy machines."""

import json
import shutil

import pytest
from conftest import ROOT
from test_cli import call

pytestmark = pytest.mark.slow


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
    """Multiply-adds of the layers for an image, counted by hand. Backward passes take up to twice as many."""
    upsampled = 16 * 16 * 4 * 16**2 + 16 * 8 * 4 * 32**2  # 4 of the 9 products are left
    generator = 100 * 16 * 64 + upsampled + 8 * 9 * 32**2
    teacher, student = 416_520, 134_000  # as logged at the end of the demo
    images = 128 * (10 + 1)
    forward = 2 * images * (generator + teacher + student)
    assert forward < result['flops_per_round'] < 3 * forward
    assert result['achieved_gflops'] == result['flops_per_round'] / result['seconds']['default'] / 1e9


def test_scaling_of_what_the_pair_can_vary(result):
    assert {key: list(values) for key, values in result['scaling'].items()} == dict(
        batch=['64', '128', '256'], imitation_steps=['10', '20', '30']
    )


@pytest.fixture(scope='module')
def other_checkout(tmp_path_factory):
    """A copy of this checkout whose tool tells when it is imported."""
    folder = tmp_path_factory.mktemp('other')
    for name in ('mmdfad', 'configs', 'examples', 'tools'):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    (folder / 'mmdfad/.mim').mkdir()
    (folder / 'mmdfad/.mim/configs').symlink_to(folder / 'configs')
    with (folder / 'tools/analysis_tools/benchmark_rounds.py').open('a') as file:
        file.write("print('imported from', __file__,)\n")
        file.write("import mmdfad; print('with', mmdfad.__file__)\n")
    return folder


def test_two_checkouts_take_turns(other_checkout, tmp_path):
    file = tmp_path / 'ratio.json'
    arguments = ['--pair', 'lenet', '--repeats', 2, '--against', other_checkout, '--json', file]
    done = call('analysis_tools/benchmark_rounds.py', *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert json.loads(done.stdout) == result
    assert f'imported from {other_checkout}/tools/analysis_tools/benchmark_rounds.py' in done.stderr
    assert f'with {other_checkout}/mmdfad/__init__.py' in done.stderr
    for clock in ('wall', 'cpu'):
        times = result[clock]
        assert times['ratio'] == times['this_median'] / times['other_median']
        assert times['ratio_of_minimums'] == times['this_minimum'] / times['other_minimum']
        assert 0 < times['this_minimum'] <= times['this_median']


def test_batch_sizes_that_are_not_used_are_refused(tmp_path):
    for size, message in ((4, 'leave out --batch-size'), (0, '--batch-size must be a positive number, but found 0')):
        done = call(
            'analysis_tools/benchmark_rounds.py', '--pair', 'lenet', '--batch-size', size, '--against', tmp_path
        )
        assert done.returncode == 2
        assert message in done.stderr


def test_a_checkout_that_cannot_run_is_explained(tmp_path):
    def error_of(checkout):
        done = call('analysis_tools/benchmark_rounds.py', '--pair', 'lenet', '--against', checkout)
        assert done.returncode == 1
        assert 'Traceback' not in done.stderr
        return done.stderr

    assert f'--against {tmp_path} is not a checkout' in error_of(tmp_path)
    (tmp_path / 'tools/analysis_tools').mkdir(parents=True)
    (tmp_path / 'tools/analysis_tools/benchmark_rounds.py').write_text('')
    error = error_of(tmp_path)  # has the tool, but not the package
    assert f'expected mmdfad in {tmp_path}' in error
    assert f'the process of {tmp_path} ended with exit code 1' in error
