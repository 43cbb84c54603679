"""The config that is written from a teacher's config and checkpoint."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_SEG, build_runner, run
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from tiny_configs import SWIN, save_untrained, write_tiny

from mmdfad.apis import write_distillation
from mmdfad.apis.choices import Choices, Task
from mmdfad.apis.methods import dfad
from mmdfad.models.build import build_model, plain_config
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

LENET = 'mmpretrain::lenet/lenet5_mnist.py'


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


def written(tmp_path, *arguments, method='dfad', batch_size=2, **kwargs) -> tuple[Config, list[str]]:
    """The config, read again, and the reasons in it. It times steps of few images unless told otherwise."""
    kwargs |= dict(method=method, batch_size=batch_size)
    reasons = write_distillation(tmp_path / 'distill.py', *map(str, arguments), **kwargs)
    return Config.fromfile(tmp_path / 'distill.py'), reasons


def test_the_file_has_the_reasons_and_differs_from_the_base_in_what_was_chosen(tmp_path, tiny, teacher_checkpoint):
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, 'auto:0.5', rounds=200)
    text = (tmp_path / 'distill.py').read_text()
    assert text.endswith('\n')
    comments = [line for line in text.splitlines() if line.startswith('#')]
    assert f'python tools/train.py {tmp_path}/distill.py' in comments[1]
    assert [line.removeprefix('#   ') for line in comments[3:-1]] == reasons
    assert len({line.partition(' = ')[0] for line in reasons}) == len(reasons)
    base = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py')
    assert cfg.default_hooks.keys() == base.default_hooks.keys()
    intervals = {name: hook.interval for name, hook in cfg.default_hooks.items() if 'interval' in hook}
    assert intervals == dict(logger=10, checkpoint=10, synthetic_images=10, health=10)
    assert 'custom_hooks' not in cfg
    assert cfg.log_processor.type == 'mmdfad.DistillLogProcessor'
    assert [phase.name for phase in cfg.train_cfg.phases] == ['imitation', 'generation']
    assert [phase.steps for phase in cfg.train_cfg.phases] == [5, 1]
    assert cfg.model.imitation == [dict(type='mmdfad.L1Discrepancy')]
    objectives = [objective.type for objective in cfg.model.generation]
    assert objectives == ['mmdfad.L1Discrepancy', 'mmdfad.BNStatisticsPrior']
    assert cfg.model.start.type == 'mmdfad.ChannelSelection'
    assert cfg.train_dataloader.dataset == dict(type='mmdfad.NoiseDataset')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(student='auto:0.5'), 'cannot make backbone=LeNet5 narrower; it can do so for ResNet'),
        (dict(student='auto:depth=0.5'), 'cannot make backbone=LeNet5 shallower; it can do so for ResNet'),
        (dict(student='auto:half'), "takes a config, or auto:0.5 for half .* auto:depth=0.5, .* found 'auto:half'"),
        (dict(student='auto:'), "takes a config, or auto:0.5 for half the width, .* found 'auto:'"),
        (dict(student='auto:1.2.3'), "takes a config, or auto:0.5 for half the width, .* found 'auto:1.2.3'"),
        (dict(checkpoint='no.pth'), "model.teacher.checkpoint='.*no.pth' does not exist"),
        (dict(teacher='no_such.py'), 'cannot read model.teacher.cfg_path .*no_such.py'),
        (dict(teacher=str(ROOT / 'configs/_base_/schedules/dfad_2k.py')), 'defines no `model` with a `type`'),
        (
            dict(student='mmpretrain::resnet/resnet18_8xb16_cifar10.py'),
            r'model.student cannot take images of shape \[1, .* give a --student whose backbone takes 1 channels',
        ),
        (dict(rounds=0), '--rounds must be a whole number, 1 or more, but found 0'),
        (dict(image_size=(0, 32)), '--image-size must be a positive'),
    ],
)
def test_unusable_arguments(tmp_path, changes, message):
    checkpoint = save_untrained(LENET, tmp_path / 'lenet.pth')
    arguments = {**dict(teacher=LENET, checkpoint=str(checkpoint), student=LENET), **changes}
    with pytest.raises(DistillError, match=message):
        write_distillation(tmp_path / 'distill.py', **arguments)
    assert not (tmp_path / 'distill.py').exists()


# Images


@pytest.mark.parametrize(
    ('student', 'reason'),
    [
        (
            dict(pixels=24),
            r"image_size of the student = \(24, 24\): ResizeEdge in the student's test_dataloader; images are resized",
        ),
        (
            dict(pixels=None, backbone=SWIN, head__in_channels=16),
            r"image_size of the student = \(32, 32\): img_size of the student's backbone; images are resized",
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
        (dict(type='Resize', scale=(24, 16)), (16, 24)),  # mmcv's transforms have the width first
        (dict(type='CenterCrop', crop_size=(24, 16)), (16, 24)),
        (dict(type='RandomResizedCrop', scale=(16, 24)), (16, 24)),  # mmpretrain's have the height first
        (dict(type='mmpretrain.ResizeEdge', scale=24), (24, 24)),
        (dict(type='torchvision/RandomResizedCrop', scale=(0.08, 1.0)), (64, 64)),  # a ratio, so the one before counts
    ],
)
@pytest.mark.parametrize('wrap', ['RepeatDataset', 'ConcatDataset'])
def test_the_last_size_of_the_test_pipeline_is_that_of_the_images(tmp_path, tiny, teacher_checkpoint, step, size, wrap):
    teacher = tiny('teacher', pixels=None)
    inner = dict(pipeline=[dict(type='Resize', scale=64), step, dict(type='Normalize')])
    wrapped = dict(type=wrap, dataset=inner) if wrap == 'RepeatDataset' else dict(type=wrap, datasets=[inner])
    teacher.write_text(f'{teacher.read_text()}test_dataloader = dict(dataset={wrapped})')
    cfg, _ = written(tmp_path, teacher, teacher_checkpoint, 'auto:0.5')
    assert cfg.model.generator.image_size == size
    large = size == (64, 64)
    assert cfg.model.generator.type == ('mmdfad.DCGANGenerator' if large else 'mmdfad.UpsampleGenerator')
    assert cfg.train_cfg.max_iters == (15000 if large else 25000)


@pytest.mark.parametrize(
    ('size', 'batch_size'), [((16, 24), 256), ((64, 64), 256), ((128, 128), 64), ((128, 256), 32), ((999, 999), 4)]
)
def test_the_papers_batch_size_at_other_sizes(size, batch_size):
    choices = Choices()
    assert dfad._batch_size(choices, Task(None, None, size)) == batch_size
    assert "the paper's" in choices.lines[0]


def test_choices_for_large_images(tmp_path, tiny, teacher_checkpoints):
    teacher = tiny('teacher', scope='mmseg', pixels=None, data_preprocessor__size=(500, 1000))
    cfg, reasons = written(tmp_path, teacher, teacher_checkpoints[TINY_SEG], 'auto:0.5')
    assert cfg.model.generator.image_size == (128, 256)  # a quarter, as a multiple of 16
    assert any('halved to at most 256 pixels and rounded to a multiple of 16' in line for line in reasons)
    assert cfg.model.generator.type == 'mmdfad.DCGANGenerator'
    space = PixelSpace.of(build_model(plain_config(dict(cfg_path=str(teacher)), 'teacher'), 'teacher'))
    reach = torch.stack([space.mean, 255 - space.mean]).div(space.std).max()
    assert cfg.model.generator.output_scale == pytest.approx(float(reach), abs=0.01)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_cfg.max_iters == 15000
    (time,) = [line for line in reasons if line.startswith('expected time = ')]
    assert re.search(r'= [\d,]+ (h \d+ min|min \d+ s): 15000 rounds of \S+ s, by a timed step of each on \S', time)
    assert any(line.startswith('expected memory = ') for line in reasons)


def test_no_size_anywhere(tmp_path, tiny, teacher_checkpoint):
    with pytest.raises(DistillError, match=r'teacher_\d.py does not give the image size.* Give --image-size HEIGHT'):
        written(tmp_path, tiny('teacher', pixels=None), teacher_checkpoint, 'auto:0.5')


# Learning rates


def learning_rates(schedulers: list[dict], rounds: int) -> list[float]:
    """The learning rate in each round, as mmengine steps it, for a base rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = [PARAM_SCHEDULERS.build(dict(cfg), default_args=dict(optimizer=optimizer)) for cfg in schedulers]
    rates = []
    for _ in range(rounds):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in built:
            scheduler.step()
    return rates


@pytest.mark.parametrize('rounds', [1, 2, 29, 30, 45, 59, 60, 61, 90, 300])
def test_the_student_reaches_its_learning_rate_with_any_number_of_rounds(tmp_path, tiny, teacher_checkpoint, rounds):
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, 'auto:0.5', rounds=rounds)
    schedulers = cfg.param_scheduler.student
    assert [s.type for s in schedulers] == (['LinearLR'] if rounds >= 60 else []) + ['CosineAnnealingLR']
    assert any(line.startswith('warm_up = none: ') for line in reasons) == (rounds < 60)
    rates = learning_rates(schedulers, rounds)
    assert max(rates) == pytest.approx(1)
    assert max(rates) == rates[0 if rounds < 60 else rounds // 30 - 1]
    assert min(rates) > 0
    if rounds >= 60:
        assert rates[0] == pytest.approx(0.01)


# Teacher and student


def test_a_shallower_student_of_another_config_starts_with_layers_of_the_teacher(tmp_path, tiny):
    def student(width):
        sizes = dict(backbone__base_channels=width, backbone__stem_channels=width, head__in_channels=8 * width)
        return tiny('student', **sizes, head__num_classes=5)

    teacher = tiny('teacher', backbone__depth=34, head__num_classes=7)
    checkpoint = save_untrained(teacher, tmp_path / 'deep.pth')
    cfg, _ = written(tmp_path, teacher, checkpoint, student(8))
    assert cfg.model.start == dict(type='mmdfad.ChannelSelection')
    distiller = build_runner(cfg, work_dir=str(tmp_path / 'run')).model
    distiller.apply_start(distiller.generator.sample)
    own, deep = (network.model.state_dict() for network in (distiller.student, distiller.teacher))
    assert torch.equal(own['backbone.layer3.1.conv1.weight'], deep['backbone.layer3.3.conv1.weight'])
    wider, _ = written(tmp_path, teacher, checkpoint, student(16))
    assert 'start' not in wider.model


@pytest.mark.parametrize(
    ('student', 'width', 'depth'),
    [
        ('auto:0.5', 4, None),
        ('auto:width=.5', 4, None),
        ('auto:depth=0.5', None, 18),
        ('auto:width=0.5,depth=0.5', 4, 18),
    ],
)
def test_a_smaller_teacher(tmp_path, tiny, student, width, depth):
    teacher = tiny('teacher', backbone__depth=34)
    cfg, reasons = written(tmp_path, teacher, save_untrained(teacher, tmp_path / 'deep.pth'), student)
    options = cfg.model.student.cfg_options
    assert options.get('model.backbone.base_channels') == width
    assert options.get('model.backbone.depth') == depth
    assert any(line.startswith(f'student = {student}: the teacher, its ') for line in reasons)
    assert cfg.model.start.type == 'mmdfad.ChannelSelection'


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
        r'model.student cannot take images of shape \[3, 16, 16\] .*smaller than the window.*another --image-size',
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
    checkpoint = save_untrained(teacher, tmp_path / 'self.pth')
    with pytest.raises(DistillError, match=r'model.teacher: SimSiam .* it learns features without labels'):
        written(tmp_path, teacher, checkpoint, 'auto:0.5')


def test_a_checkpoint_with_another_head_is_refused_before_anything_is_written(tmp_path, tiny, teacher_checkpoint):
    message = r'(?s)head.fc.weight \(model \[9, 64\].*Everything else fits, so the checkpoint has another head'
    with pytest.raises(DistillError, match=message):
        written(tmp_path, tiny('teacher', head__num_classes=9), teacher_checkpoint, 'auto:0.5')
    assert not (tmp_path / 'distill.py').exists()


# Validation


def validated(tmp_path: Path, tiny, **loaders) -> Path:
    teacher = tiny('teacher')
    lines = (f'{name} = {value!r}\n' for name, value in loaders.items())
    teacher.write_text(teacher.read_text() + ''.join(lines))
    return teacher


def test_the_teachers_validation_data_are_kept(tmp_path, tiny, teacher_checkpoint):
    inner = dict(type='CIFAR10', data_root='nowhere', pipeline=[])
    loader = dict(batch_size=3, dataset=dict(type='RepeatDataset', times=1, dataset=inner), sampler=dict(type='S'))
    teacher = validated(tmp_path, tiny, val_dataloader=loader, val_evaluator=dict(type='Accuracy'), val_cfg=dict())
    cfg, reasons = written(tmp_path, teacher, teacher_checkpoint, 'auto:0.5')
    assert cfg.val_dataloader == loader
    assert any(line.startswith("validation = CIFAR10: the teacher's; if its data are missing, ") for line in reasons)


def test_without_validation_data_the_agreement_is_validated(tmp_path, tiny, teacher_checkpoint):
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, 'auto:0.5')
    assert 'val_dataloader' not in cfg
    assert any(line.startswith('validation = agreement: on generated images') for line in reasons)
