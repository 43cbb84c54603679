"""From a config and a checkpoint to a student in one line, and again from the config that was written."""

import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_SEG, save_teacher
from mmengine.config import Config
from test_cli import call, fails

from mmdfad.apis import write_distillation
from mmdfad.models.players import build_model, plain_config
from mmdfad.utils import DistillError

LENET = 'mmpretrain::lenet/lenet5_mnist.py'


@pytest.fixture(scope='module')
def lenet(tmp_path_factory) -> Path:
    """The checkpoint of a LeNet-5 that was not trained."""
    path = tmp_path_factory.mktemp('lenet') / 'lenet.pth'
    torch.manual_seed(0)
    torch.save(build_model(plain_config(dict(cfg_path=LENET), 'teacher'), 'teacher').state_dict(), path)
    return path


def plain_teacher(path: Path, config: Path) -> Path:
    """The teacher of a tiny distillation as a config of its own, of data that are nowhere."""
    cfg = Config.fromfile(config)
    teacher = cfg.model.teacher
    teacher.pop('checkpoint')
    loader = dict(
        batch_size=1,
        dataset=dict(type='CityscapesDataset', data_root='nowhere', pipeline=[]),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    content = dict(model=teacher, default_scope=cfg.default_scope, val_dataloader=loader, val_cfg=dict(type='ValLoop'))
    path.write_text(Config(dict(content, val_evaluator=dict(type='IoUMetric'))).pretty_text)
    return path


def distil(teacher, checkpoint, student, *arguments, **kwargs):
    return call(
        'distill.py', '--teacher', teacher, '--checkpoint', checkpoint, '--student', student, *arguments, **kwargs
    )


def test_lenet_of_the_demo(tmp_path, lenet):
    student = tmp_path / 'half.py'  # of another number of classes, too
    student.write_text(f"_base_ = '{LENET}'\nmodel = dict(backbone=dict(type='mmdfad.LeNet5Half', num_classes=7))\n")
    few = ['--rounds', 2, '--batch-size', 64, '--seed', 3]
    result = distil(LENET, lenet, student, *few, '--no-validate', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "image_size = (32, 32): Resize in the teacher's test_dataloader" in result.stdout
    assert 'size of the student = 15,738 parameters' in result.stdout
    assert "classes of the student = 10: the teacher's, in place of 7" in result.stdout
    assert 'generator = UpsampleGenerator' in result.stdout
    assert 'optimizer = SGD' in result.stdout
    work_dir = tmp_path / 'work_dirs/lenet5_mnist_to_half'
    cfg = Config.fromfile(work_dir.with_suffix('.py'))
    assert cfg.model.generator.channels == 1
    assert not {'init_student_from_teacher', 'generation_priors'} & cfg.model.keys()  # no batch norm, another model
    assert cfg.train_cfg.max_iters == 2
    assert cfg.train_dataloader.batch_size == 64
    first = torch.load(work_dir / 'student.pth', weights_only=False)
    assert first['state_dict']['backbone.classifier.2.weight'].shape[0] == 10

    again = call('train.py', work_dir.with_suffix('.py'), '--work-dir', tmp_path / 'again', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert re.search(r'Iter\(val\) .*agreement: [01]\.\d+', again.stdout + again.stderr)
    second = torch.load(tmp_path / 'again/student.pth', weights_only=False)
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key


def test_small_deeplab_and_flags_of_train(tmp_path):
    teacher = plain_teacher(tmp_path / 'deeplab.py', TINY_SEG)
    checkpoint = save_teacher(tmp_path / 'deeplab.pth', config=TINY_SEG)
    work_dir = tmp_path / 'small'
    flags = ['--rounds', 2, '--batch-size', 16, '--work-dir', work_dir, '--image-size', 32, 24]
    result = distil(teacher, checkpoint, 'auto:0.5', *flags, '--no-validate', '--amp', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'student = auto:0.5: the teacher, its widths times 0.5' in result.stdout
    assert 'generation_loss = log(1 + L1)' in result.stdout
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'the fastest type of this ' in log
    assert 'Iter(val)' not in log
    assert (work_dir / 'student.pth').exists()
    cfg = Config.fromfile(f'{work_dir}.py')
    assert cfg.model.generator.image_size == (32, 24)
    assert cfg.model.init_student_from_teacher
    assert [prior.type for prior in cfg.model.generation_priors] == ['mmdfad.BNStatisticsPrior']
    assert cfg.model.student.cfg_options['model.backbone.base_channels'] == 4

    again = call('train.py', f'{work_dir}.py', '--no-validate', cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(student='auto:0.5'), 'backbone=LeNet5 narrower. It knows the backbones ResNet'),
        (dict(student='auto:half'), "takes a config, or auto:RATIO as in auto:0.5, but found 'auto:half'"),
        (dict(checkpoint='no.pth'), 'no.pth does not exist'),
        (dict(teacher='no_such.py'), 'cannot read model.teacher.cfg_path .*no_such.py'),
        (dict(teacher=str(ROOT / 'configs/_base_/schedules/dfad_40e.py')), 'defines no `model` with a `type`'),
        (
            dict(student='mmpretrain::resnet/resnet18_8xb16_cifar10.py'),
            r'--student .* cannot take images of shape \[1, ',
        ),
        (dict(rounds=0), '--rounds must be a positive whole number, but found 0'),
        (dict(image_size=(0, 32)), '--image-size must be a positive'),
    ],
)
def test_unusable_arguments(tmp_path, lenet, changes, message):
    arguments = {**dict(teacher=LENET, checkpoint=str(lenet), student=LENET), **changes}
    with pytest.raises(DistillError, match=message):
        write_distillation(tmp_path / 'distill.py', **arguments)
    assert not (tmp_path / 'distill.py').exists()


def test_errors_are_one_line(tmp_path):
    fails(distil(LENET, 'no.pth', LENET, cwd=tmp_path), 'checkpoint no.pth does not exist')
