"""From a config and a checkpoint to a student in one line, and again from the config that was written."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TINY_SEG, save_teacher
from in_process import call_here
from mmengine.config import Config
from test_cli import fails
from tiny_configs import save_untrained, write_tiny

LENET = 'mmpretrain::lenet/lenet5_mnist.py'


def distil(teacher, checkpoint, student, *arguments, **kwargs):
    return call_here(
        'distill.py', '--teacher', teacher, '--checkpoint', checkpoint, '--student', student, *arguments, **kwargs
    )


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


def with_missing_data(teacher: Path) -> Path:
    """Add validation data that are nowhere to a config."""
    loader = dict(
        batch_size=1,
        dataset=dict(type='CityscapesDataset', data_root='nowhere', pipeline=[]),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    validation = dict(val_dataloader=loader, val_cfg=dict(type='ValLoop'), val_evaluator=dict(type='IoUMetric'))
    teacher.write_text(teacher.read_text() + Config(validation).pretty_text)
    return teacher


def test_lenet_of_the_demo(tmp_path):
    student = tmp_path / 'half.py'  # with another number of classes, too
    student.write_text(f"_base_ = '{LENET}'\nmodel = dict(backbone=dict(type='mmdfad.LeNet5Half', num_classes=7))\n")
    lenet = save_untrained(LENET, tmp_path / 'lenet.pth')
    few = ['--method', 'dfad', '--rounds', 2, '--batch-size', 64, '--seed', 3]
    result = distil(LENET, lenet, student, *few, '--no-validate', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "image_size = (32, 32): Resize in the teacher's test_dataloader" in result.stdout
    assert 'size of the student = 15,738 parameters' in result.stdout
    assert "classes of the student = 10: the teacher's, by model.backbone.num_classes" in result.stdout
    assert 'generator = UpsampleGenerator' in result.stdout
    assert 'optimizer = SGD' in result.stdout
    work_dir = tmp_path / 'work_dirs/lenet5_mnist_to_half'
    cfg = Config.fromfile(work_dir.with_suffix('.py'))
    assert cfg.model.generator.channels == 1
    assert cfg.model.start.type == 'mmdfad.ChannelSelection'  # it has half of everything
    assert [objective.type for objective in cfg.model.generation] == ['mmdfad.L1Discrepancy']  # no batch norm
    assert 'image_size' not in cfg.model.student
    assert cfg.train_cfg.max_iters == 2
    assert cfg.train_dataloader.batch_size == 64
    first = torch.load(work_dir / 'student.pth', weights_only=False)
    assert first['state_dict']['backbone.classifier.2.weight'].shape[0] == 10

    again = call_here('train.py', work_dir.with_suffix('.py'), '--work-dir', tmp_path / 'again', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert re.search(r'Iter\(val\) .*agreement: [01]\.\d+', again.stdout + again.stderr)
    second = torch.load(tmp_path / 'again/student.pth', weights_only=False)
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key

    # Its rounds might depend on times.
    before = work_dir.with_suffix('.py').read_text()
    few[few.index('--rounds') + 1] = 9
    resumed = distil(LENET, lenet, student, *few, '--no-validate', '--resume', cwd=tmp_path)
    assert 'lenet5_mnist_to_half.py, which is not written again' in resumed.stdout
    assert 'This run has finished its 2 rounds' in resumed.stdout + resumed.stderr
    assert work_dir.with_suffix('.py').read_text() == before


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--config-only', '--imagesize', 32, 32], 'these flags have no effect: --imagesize 32 32'),
        (['--work-dir', '.'], '--work-dir must have a name, for the config beside it, but found .'),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, tiny, flags, message):
    result = distil(tiny('teacher'), 'none.pth', 'auto:0.5', *flags, cwd=tmp_path)
    assert result.returncode
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_small_deeplab_and_flags_of_train(tmp_path, tiny):
    teacher = with_missing_data(tiny('teacher', scope='mmseg', pixels=None))
    checkpoint = save_teacher(tmp_path / 'deeplab.pth', config=TINY_SEG)
    work_dir = tmp_path / 'small'
    flags = ['--method', 'dfad', '--rounds', 2, '--batch-size', 16, '--work-dir', work_dir, '--image-size', 32, 24]
    result = distil(teacher, checkpoint, 'auto:0.5', *flags, '--no-validate', '--amp', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'student = auto:0.5: the teacher, its width times 0.5' in result.stdout
    assert 'generation[0] = LogL1Discrepancy: log(1 + L1)' in result.stdout
    assert 'steps in a round = 2 of imitation and 2 of generation: ' in result.stdout
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'the fastest type of this ' in log
    assert 'Iter(val)' not in log
    assert (work_dir / 'student.pth').exists()
    cfg = Config.fromfile(f'{work_dir}.py')
    assert cfg.model.generator.image_size == (32, 24)
    assert [phase.steps for phase in cfg.train_cfg.phases] == [2, 2]
    assert cfg.model.start.type == 'mmdfad.ChannelSelection'
    assert [objective.type for objective in cfg.model.generation] == [
        'mmdfad.LogL1Discrepancy',
        'mmdfad.BNStatisticsPrior',
    ]
    assert cfg.model.student.cfg_options['model.backbone.base_channels'] == 4

    again = call_here('train.py', f'{work_dir}.py', '--work-dir', tmp_path / 'again', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert 'No validation data (CityscapesDataset' in again.stdout + again.stderr


def test_the_default_method(tmp_path, tiny, teacher_checkpoint):
    """Images, the start and imitation, in a run and again from the config that was written."""
    small = ['--cfg-options', 'model.start.images=16']
    flags = ['--rounds', 4, '--batch-size', 8, '--no-validate', '--work-dir', tmp_path / 'run']
    result = distil(tiny('teacher'), teacher_checkpoint, 'auto:width=0.5', *flags, *small)
    assert result.returncode == 0, result.stderr
    images = ('generator = InversionPool: ', 'rounds of images = 2: ')
    for line in (*images, 'start = LeastSquaresStart: ', 'rounds of imitation = 2: ', 'expected time = '):
        assert f'  {line}' in result.stdout
    first = torch.load(tmp_path / 'run/student.pth', weights_only=False)['state_dict']
    again = call_here('train.py', tmp_path / 'run.py', '--work-dir', tmp_path / 'again', *small)
    assert again.returncode == 0, again.stderr
    assert len(re.findall(r'Iter\(val\) .*agreement: [01]\.\d+', again.stdout)) == 2  # after the start
    second = torch.load(tmp_path / 'again/student.pth', weights_only=False)['state_dict']
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_config_only(tmp_path, tiny, teacher_checkpoint):
    result = distil(
        tiny('teacher'),
        teacher_checkpoint,
        'auto:0.5',
        '--config-only',
        '--method',
        'dfad',
        '--work-dir',
        tmp_path / 'run',
    )
    assert result.returncode == 0, result.stderr
    assert f'Wrote {tmp_path}/run.py' in result.stdout
    assert not (tmp_path / 'run').exists()


def test_errors_are_one_line(tmp_path):
    fails(distil(LENET, 'no.pth', LENET, cwd=tmp_path), r"model.teacher.checkpoint='.*no.pth' does not exist")


def test_networks_of_different_kinds(tmp_path, tiny, teacher_checkpoint, teacher_checkpoints):
    """The run itself refuses these, also in one line."""
    few = ['--method', 'dfad', '--rounds', 1, '--no-validate', '--work-dir', tmp_path / 'run']
    several = tiny('student', head=dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=5, in_channels=32))
    result = distil(tiny('teacher'), teacher_checkpoint, several, *few)
    fails(result, r'model.teacher is single-label .* and model.student is multi-label .* such as LinearClsHead')
    segmentor = tiny('student', scope='mmseg')
    result = distil(tiny('teacher'), teacher_checkpoint, segmentor, *few)
    fails(result, r'model.teacher is a classifier and model.student is a segmentor')
    flags = [*few, '--batch-size', 1, '--image-size', 32, 32]
    result = distil(tiny('teacher', scope='mmseg'), teacher_checkpoints[TINY_SEG], 'auto:0.5', *flags)
    fails(result, r'a step of 1 images does not work on this \w+ \(Expected more than 1 value .*change --batch-size')


@pytest.mark.parametrize('method', ['ils', 'dfad'])
def test_one_round(tmp_path, tiny, teacher_checkpoint, method):
    few = ['--method', method, '--rounds', 1, '--batch-size', 4, '--no-validate', '--work-dir', tmp_path / 'run']
    result = distil(tiny('teacher'), teacher_checkpoint, 'auto:width=0.5', *few)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'run/student.pth').exists()
