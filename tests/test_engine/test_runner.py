"""What a person sees of a run on the terminal, and what only the log file has."""

import re

import pytest
from conftest import TINY, both_tasks, build_runner
from in_process import call_here
from mmengine.config import Config

from mmdfad.engine import DistillRunner, SafeRunner
from mmdfad.engine.runner import summary


def test_few_lines_before_the_first_round(tmp_path, teacher_checkpoint):
    """Machine, config and hooks are in the log file."""
    options = [f'model.teacher.checkpoint={teacher_checkpoint}', 'train_cfg.max_iters=1']
    result = call_here('train.py', TINY, '--work-dir', tmp_path, '--no-validate', '--cfg-options', *options, check=True)
    lines = (result.stdout + result.stderr).splitlines()
    first = next(i for i, line in enumerate(lines) if 'Round(train)' in line)
    assert first < 25, lines[:first]
    assert max(len(line) for line in lines[: first + 1] if ' - mmengine - ' in line) < 320
    log = next(tmp_path.glob('*/*.log')).read_text()
    for text in ('System environment:', 'Config:', 'Hooks will be executed in the following order'):
        assert text in log
        assert text not in result.stdout + result.stderr


@both_tasks
def test_summary(tiny_cfg):
    tiny_cfg.model.update(start=dict(type='ChannelSelection'), generation=[dict(type='L1Discrepancy')] * 2)
    replay = dict(type='ReplayGenerator', generator=tiny_cfg.model.generator, capacity=6, replayed=3)
    tiny_cfg.model.generator = dict(type='AugmentedGenerator', generator=replay, shift=2)
    text = '\n'.join(summary(build_runner(tiny_cfg).model, tiny_cfg, 'x.log'))
    inner = Config.fromfile(tiny_cfg.filename).model.generator.type.rpartition('.')[2]
    assert f'Images: AugmentedGenerator of ReplayGenerator of {inner}, which learns by L1Discrepancy, L1Disc' in text
    assert 'Start of the student: ChannelSelection' in text
    assert re.search(r'Teacher: \S+\.pth', text)
    assert f'6 rounds with batches of {tiny_cfg.train_dataloader.batch_size}' in text


def test_summary_of_images_that_nothing_learns(tiny_cfg):
    tiny_cfg.model.generator = dict(type='mmdfad.DeadLeaves', noise_dim=8, image_size=16)
    text = summary(build_runner(tiny_cfg).model, tiny_cfg, 'x.log')
    assert 'Images: DeadLeaves' in text


def test_the_summary_is_part_of_the_log(tiny_cfg, tmp_path):
    cfg = Config(tiny_cfg.to_dict(), filename=tiny_cfg.filename)
    cfg.experiment_name = 'a_summary'
    DistillRunner.from_cfg(cfg)
    assert (tmp_path / 'run/tiny.py').exists()
    assert 'Images: ' in next((tmp_path / 'run').glob('*/*.log')).read_text()


def test_a_config_that_is_called_student(tiny_cfg, tmp_path):
    """As of tools/distill.py --work-dir student. It leaves the name to the exported student."""
    (tmp_path / 'student.py').write_text('')
    tiny_cfg.default_hooks.export_student = dict(type='mmdfad.ExportStudentHook')
    cfg = Config(tiny_cfg.to_dict(), filename=str(tmp_path / 'student.py'))
    cfg.merge_from_dict(dict(experiment_name='called_student', train_cfg=dict(max_iters=1)))
    runner = DistillRunner.from_cfg(cfg)
    runner.train()
    assert 'AdversarialDistiller' in (tmp_path / f'run/{runner.timestamp}.py').read_text()
    assert 'AdversarialDistiller' not in (tmp_path / 'run/student.py').read_text()


@pytest.mark.parametrize('runner_type', [SafeRunner, DistillRunner])
def test_the_users_own_config_is_kept(tiny_cfg, tmp_path, runner_type):
    """As of tools/train.py my_lr0.1.py --work-dir . A config that an earlier run wrote is replaced."""
    mine = tmp_path / 'my_lr0.1.py'
    mine.write_text('mine = 1\n')
    cfg = Config(tiny_cfg.to_dict(), filename=str(mine))
    cfg.merge_from_dict(dict(experiment_name=f'kept_{runner_type.__name__}', work_dir=str(tmp_path)))
    runner = runner_type.from_cfg(cfg)
    assert mine.read_text() == 'mine = 1\n'
    assert 'AdversarialDistiller' in (tmp_path / f'{runner.timestamp}.py').read_text()

    (tmp_path / f'{runner.timestamp}.py').write_text('other = 1\n')  # as of a stock run of the same second
    runner.dump_config()
    assert (tmp_path / f'{runner.timestamp}.py').read_text() == 'other = 1\n'
    assert 'AdversarialDistiller' in (tmp_path / f'{runner.timestamp}_1.py').read_text()

    cfg.work_dir = str(tmp_path / 'runs')
    for rounds in (7, 8):
        cfg.merge_from_dict(dict(experiment_name=f'{rounds}_{runner_type.__name__}', train_cfg=dict(max_iters=rounds)))
        runner_type.from_cfg(cfg)
        assert Config.fromfile(tmp_path / 'runs/my_lr0.1.py').train_cfg.max_iters == rounds
