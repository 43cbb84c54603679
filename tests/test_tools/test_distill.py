"""From a config and a checkpoint to a student in one line, and again from the config that was written."""

import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, TINY_SEG, build_runner, run, save_teacher
from mmengine.config import Config
from test_cli import call, fails

from mmdfad.apis import write_distillation
from mmdfad.models.pixels import PixelSpace
from mmdfad.models.players import build_model, plain_config
from mmdfad.utils import DistillError

LENET = 'mmpretrain::lenet/lenet5_mnist.py'


@pytest.fixture(scope='module')
def lenet(tmp_path_factory) -> Path:
    """The checkpoint of a LeNet-5 that was not trained."""
    path = tmp_path_factory.mktemp('lenet') / 'lenet.pth'
    save_untrained(LENET, path)
    return path


def save_untrained(config: str | Path, path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model(plain_config(dict(cfg_path=str(config)), 'teacher'), 'teacher').state_dict(), path)


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
    assert "classes of the student = 10: the teacher's, by model.backbone.num_classes" in result.stdout
    assert 'generator = UpsampleGenerator' in result.stdout
    assert 'optimizer = SGD' in result.stdout
    work_dir = tmp_path / 'work_dirs/lenet5_mnist_to_half'
    cfg = Config.fromfile(work_dir.with_suffix('.py'))
    assert cfg.model.generator.channels == 1
    assert cfg.model.init_student_from_teacher  # it has half of everything
    assert 'generation_priors' not in cfg.model  # no batch norm
    assert 'image_size' not in cfg.model.student
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
    assert 'student = auto:0.5: the teacher, its width times 0.5' in result.stdout
    assert 'generation_loss = log(1 + L1)' in result.stdout
    assert 'imitation_steps = 2: to 2 of the generator' in result.stdout
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'the fastest type of this ' in log
    assert 'Iter(val)' not in log
    assert (work_dir / 'student.pth').exists()
    cfg = Config.fromfile(f'{work_dir}.py')
    assert cfg.model.generator.image_size == (32, 24)
    assert (cfg.train_cfg.imitation_steps, cfg.train_cfg.generation_steps) == (2, 2)
    assert cfg.model.init_student_from_teacher
    assert [prior.type for prior in cfg.model.generation_priors] == ['mmdfad.BNStatisticsPrior']
    assert cfg.model.student.cfg_options['model.backbone.base_channels'] == 4

    again = call('train.py', f'{work_dir}.py', '--no-validate', cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(student='auto:0.5'), 'does not know how to make backbone=LeNet5 narrower, as it does ResNet'),
        (dict(student='auto:depth=0.5'), 'does not know how to make backbone=LeNet5 shallower, as it does ResNet'),
        (dict(student='auto:half'), "takes a config, or auto:0.5 for half .* auto:depth=0.5, .* found 'auto:half'"),
        (dict(student='auto:'), "takes a config, or auto:0.5 for half the width, .* found 'auto:'"),
        (dict(student='auto:1.2.3'), "takes a config, or auto:0.5 for half the width, .* found 'auto:1.2.3'"),
        (dict(checkpoint='no.pth'), "model.teacher.checkpoint='no.pth' does not exist"),
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


# Teachers and students of images of 16x16 and five classes.


@pytest.fixture
def tiny(tmp_path):
    """Writes a config with the model of a tiny one, changed."""

    def write(name: str, scope: str = 'mmpretrain', pixels: int | None = 16, **changes) -> Path:
        model = Config.fromfile(TINY_SEG if scope == 'mmseg' else TINY).model[name]
        model.pop('checkpoint', None)
        content = Config(dict(model=model, default_scope=scope))
        content.merge_from_dict({f'model.{key.replace("__", ".")}': value for key, value in changes.items()})
        if pixels is not None:
            content.test_dataloader = dict(dataset=dict(pipeline=[dict(type='ResizeEdge', scale=pixels)]))
        path = tmp_path / f'{name}_{len(list(tmp_path.iterdir()))}.py'
        path.write_text(content.pretty_text)
        return path

    return write


def written(tmp_path, *arguments, **kwargs) -> tuple[Config, list[str]]:
    reasons = write_distillation(tmp_path / 'distill.py', *map(str, arguments), **kwargs)
    return Config.fromfile(tmp_path / 'distill.py'), reasons


SWIN = dict(
    _delete_=True,
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]),
    img_size=32,
    patch_size=2,
    window_size=8,
    out_indices=(1,),
)


@pytest.mark.parametrize(
    ('student', 'reason'),
    [
        (dict(pixels=24), r'image_size of the student = \(24, 24\): ResizeEdge in its test_dataloader; images are res'),
        (
            dict(pixels=None, backbone=SWIN, head__in_channels=16),
            r'image_size of the student = \(32, 32\): img_size of its backbone; images are res',
        ),
    ],
    ids=['pipeline', 'backbone'],
)
def test_a_student_works_at_the_size_of_its_own_config(tmp_path, tiny, teacher_checkpoint, student, reason):
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, tiny('student', **student))
    assert cfg.model.generator.image_size == (16, 16)
    assert any(re.match(reason, line) for line in reasons), reasons
    size = 32 if 'backbone' in student else 24
    assert cfg.model.student.image_size == (size, size)
    assert cfg.optim_wrapper.student.optimizer.type == ('AdamW' if 'backbone' in student else 'SGD')
    run(cfg, train_cfg__max_iters=1, train_dataloader__batch_size=4, work_dir=str(tmp_path / 'run'))


@pytest.mark.parametrize(
    ('step', 'size'),
    [
        (dict(type='Resize', scale=(24, 16)), (16, 24)),  # mmcv's says width first
        (dict(type='CenterCrop', crop_size=(24, 16)), (16, 24)),
        (dict(type='RandomResizedCrop', scale=(16, 24)), (16, 24)),  # mmpretrain's say height first
        (dict(type='mmpretrain.ResizeEdge', scale=24), (24, 24)),
    ],
)
def test_the_last_size_of_the_test_pipeline_is_that_of_the_images(tmp_path, tiny, teacher_checkpoint, step, size):
    teacher = tiny('teacher', pixels=None)
    pipeline = [dict(type='Resize', scale=64), step, dict(type='Normalize')]
    wrapped = dict(type='RepeatDataset', dataset=dict(pipeline=pipeline))
    teacher.write_text(f'{teacher.read_text()}test_dataloader = dict(dataset={wrapped})')
    cfg, _ = written(tmp_path, teacher, teacher_checkpoint, 'auto:0.5')
    assert cfg.model.generator.image_size == size
    assert cfg.model.generator.type == 'mmdfad.UpsampleGenerator'
    assert cfg.train_dataloader.batch_size == 256
    assert cfg.train_cfg.max_iters == 25000


def test_choices_for_large_images(tmp_path, tiny, teacher_checkpoints):
    teacher = tiny('teacher', scope='mmseg', pixels=None, data_preprocessor__size=(500, 1000))
    cfg, _ = written(tmp_path, teacher, teacher_checkpoints[TINY_SEG], 'auto:0.5')
    assert cfg.model.generator.image_size == (128, 256)  # a quarter, to a multiple of 16
    assert cfg.model.generator.type == 'mmdfad.DCGANGenerator'
    space = PixelSpace.of(build_model(plain_config(dict(cfg_path=str(teacher)), 'teacher'), 'teacher'))
    reach = torch.stack([space.mean, 255 - space.mean]).div(space.std).max()
    assert cfg.model.generator.output_scale == pytest.approx(float(reach), abs=0.01)
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.train_cfg.max_iters == 15000


def test_no_size_anywhere(tmp_path, tiny, teacher_checkpoint):
    with pytest.raises(DistillError, match=r'nothing in .* tells the size .* Give --image-size HEIGHT WIDTH'):
        written(tmp_path, tiny('teacher', pixels=None), teacher_checkpoint, 'auto:0.5')


def test_a_shallower_student_of_another_config_starts_as_some_of_the_teachers_layers(tmp_path, tiny):
    def student(width):
        sizes = dict(backbone__base_channels=width, backbone__stem_channels=width, head__in_channels=8 * width)
        return tiny('student', **sizes, head__num_classes=5)

    teacher, checkpoint = tiny('teacher', backbone__depth=34, head__num_classes=7), tmp_path / 'deep.pth'
    save_untrained(teacher, checkpoint)
    cfg, _ = written(tmp_path, teacher, checkpoint, student(8))
    assert cfg.model.init_student_from_teacher
    runner = build_runner(cfg, work_dir=str(tmp_path / 'run'))
    own, deep = (model.model.state_dict() for model in (runner.model.student, runner.model.teacher))
    assert torch.equal(own['backbone.layer3.1.conv1.weight'], deep['backbone.layer3.1.conv1.weight'])
    wider, _ = written(tmp_path, teacher, checkpoint, student(16))
    assert 'init_student_from_teacher' not in wider.model


@pytest.mark.parametrize(
    ('student', 'width', 'depth'),
    [
        ('auto:0.5', 4, None),
        ('auto:width=.5', 4, None),
        ('auto:depth=0.5', None, 18),
        ('auto:width=0.5,depth=0.5', 4, 18),
    ],
)
def test_the_teacher_made_smaller(tmp_path, tiny, student, width, depth):
    teacher, checkpoint = tiny('teacher', backbone__depth=34), tmp_path / 'deep.pth'
    save_untrained(teacher, checkpoint)
    cfg, reasons = written(tmp_path, teacher, checkpoint, student)
    options = cfg.model.student.cfg_options
    assert options.get('model.backbone.base_channels') == width
    assert options.get('model.backbone.depth') == depth
    assert any(line.startswith(f'student = {student}: the teacher, its ') for line in reasons)
    assert cfg.model.init_student_from_teacher


NETS = """
from torch import nn
def four_classes(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
"""


def test_unusable_students(tmp_path, tiny, teacher_checkpoint):
    def refused(message, student):
        with pytest.raises(DistillError, match=message):
            written(tmp_path, tiny('teacher'), teacher_checkpoint, student)

    (tmp_path / 'nets.py').write_text(NETS)
    foreign = tmp_path / 'foreign.py'
    foreign.write_text(f"model = dict(type='mmdfad.TorchClassifier', factory='{tmp_path}/nets.py:four_classes')")
    refused(r'--student .*foreign.py has 4 classes and the teacher has 5, but its config has no num_classes', foreign)
    refused(
        r'--student .* cannot take images of shape \[3, 16, 16\] .*smaller than the window.*another --image-size',
        tiny('student', backbone=SWIN, head__in_channels=16),
    )
    detector = tmp_path / 'detector.py'
    detector.write_text("default_scope = 'mmdet'\nmodel = dict(type='FasterRCNN')")
    refused('model.student: its scope is mmdet, but no such package is installed. Classifiers of', detector)
    refused('model.student: TIMMBackbone needs timm', tiny('student', backbone__type='TIMMBackbone'))


def test_a_self_supervised_teacher(tmp_path, tiny):
    neck = dict(type='NonLinearNeck', in_channels=64, hid_channels=8, out_channels=8)
    predictor = dict(type='LinearNeck', in_channels=8, out_channels=8)
    head = dict(type='LatentPredictHead', loss=dict(type='CosineSimilarityLoss'), predictor=predictor, _delete_=True)
    teacher = tiny('teacher', type='SimSiam', neck=dict(neck, _delete_=True), head=head)
    save_untrained(teacher, tmp_path / 'self.pth')
    with pytest.raises(DistillError, match=r'--teacher .*: SimSiam .* it learns features without labels'):
        written(tmp_path, teacher, tmp_path / 'self.pth', 'auto:0.5')


def test_a_checkpoint_with_another_head_is_refused_before_anything_is_written(tmp_path, tiny, teacher_checkpoint):
    with pytest.raises(DistillError, match=r'(?s)head.fc.weight \(model \[9, 64\].*All else fits, so that its head'):
        written(tmp_path, tiny('teacher', head__num_classes=9), teacher_checkpoint, 'auto:0.5')
    assert not (tmp_path / 'distill.py').exists()


def test_errors_are_one_line(tmp_path):
    fails(distil(LENET, 'no.pth', LENET, cwd=tmp_path), r"model.teacher.checkpoint='no.pth' does not exist")


def test_players_of_different_kinds(tmp_path, tiny, teacher_checkpoint, teacher_checkpoints):
    """What the run itself refuses: one line all the same."""
    few = ['--rounds', 1, '--no-validate', '--work-dir', tmp_path / 'run']
    several = tiny('student', head=dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=5, in_channels=32))
    result = distil(tiny('teacher'), teacher_checkpoint, several, *few)
    fails(result, r'model.teacher is single-label .* and model.student is multi-label .* such as LinearClsHead')
    segmentor = tiny('student', scope='mmseg')
    result = distil(tiny('teacher'), teacher_checkpoint, segmentor, *few)
    fails(result, r'model.teacher is a classifier and model.student is a segmentor')
    flags = [*few, '--batch-size', 1, '--image-size', 32, 32]
    result = distil(tiny('teacher', scope='mmseg'), teacher_checkpoints[TINY_SEG], 'auto:0.5', *flags)
    fails(result, r'cannot train on a batch of 1: set train_dataloader.batch_size to 2 or more')


def test_one_round(tmp_path, tiny, teacher_checkpoint):
    few = ['--rounds', 1, '--batch-size', 4, '--no-validate', '--work-dir', tmp_path / 'run']
    result = distil(tiny('teacher'), teacher_checkpoint, 'auto:width=0.5', *few)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'run/student.pth').exists()
