"""The default method of ``write_distillation``: inversion and least squares."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_SEG, build_runner
from mmengine.config import Config
from tiny_configs import SWIN, save_untrained, write_tiny

from mmdfad.apis import write_distillation
from mmdfad.apis.choices import Choices, Task
from mmdfad.apis.cost import Cost, measure_cost
from mmdfad.apis.methods import ils
from mmdfad.models.build import build_network
from mmdfad.utils import DistillError
from test_apis.test_distill import LENET, learning_rates

# Seconds: a sweep takes .1 s an image and its making .01 s, ten steps of imitation 5 s, the start 38.4 s.
COST = Cost(making=0.32, generation=3.2, imitation=0.5, forward=0.4, place='on paper')
LAYERS, BATCH = 20, 32
FLAT = """
import torch
class Flat(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3 * 16 * 16, 5))
    def forward(self, x):
        return x.flatten(1) @ self.weight
"""


@pytest.fixture
def tiny(tmp_path):
    return partial(write_tiny, tmp_path)


def written(tmp_path, *arguments, **kwargs) -> tuple[Config, list[str]]:
    """The config, read again, and the reasons in it."""
    reasons = write_distillation(tmp_path / 'distill.py', *map(str, arguments), **kwargs)
    return Config.fromfile(tmp_path / 'distill.py'), reasons


def recipe(cost=COST, **flags):
    return ils.choose_recipe(SimpleNamespace(**dict(rounds=None, minutes=None) | flags), cost, BATCH, LAYERS)


# How much of each part


@pytest.mark.parametrize(
    ('minutes', 'images', 'sweeps'),
    [
        (0.1, 48, 20),  # more than fits, but less makes no sense
        (8, 48, 39),
        (20, 128, 40),
        (60, 416, 40),
        (300, 2048, 41),
        (10_000, 2048, 60),
    ],
)
def test_images_and_sweeps_of_a_time(minutes, images, sweeps):
    found = recipe(minutes=minutes)
    assert (found.images, found.sweeps) == (images, sweeps)
    seconds = 38.4 + found.images * (0.01 + 0.1 * found.sweeps) + 5 * found.rounds
    if minutes > 1:
        steps = 0.95 * 60 * minutes  # the rest is for validation and checkpoints
        assert steps - 5 < seconds <= steps
        assert 5 * found.rounds > 0.45 * steps
    else:
        assert found.rounds == 1


def test_without_a_time_the_amounts_are_the_methods():
    assert recipe() == ils.Recipe(images=256, sweeps=40, rounds=200)
    assert recipe(rounds=100) == ils.Recipe(images=256, sweeps=40, rounds=60)
    assert recipe(rounds=30) == ils.Recipe(images=256, sweeps=15, rounds=15)
    assert recipe(rounds=1) == ils.Recipe(images=256, sweeps=0, rounds=1)


def test_a_generator_that_learns_nothing_has_no_sweeps():
    cost = Cost(making=0.32, generation=0.0, imitation=0.5, forward=0.4, place='on paper')
    assert recipe(cost) == ils.Recipe(images=0, sweeps=0, rounds=200)
    assert recipe(cost, minutes=10) == ils.Recipe(images=0, sweeps=0, rounds=106)


def test_cost_is_that_of_real_steps(tiny, teacher_checkpoint):
    teacher = build_network(dict(cfg_path=str(tiny('teacher')), checkpoint=teacher_checkpoint), 'teacher')
    student = build_network(dict(cfg_path=str(tiny('student'))), 'student')
    before = next(student.parameters()).clone()
    model = dict(generator=dict(type='mmdfad.UpsampleGenerator', noise_dim=8, image_size=16, width=8))
    optim = dict(
        constructor='mmdfad.DistillOptimWrapperConstructor',
        student=dict(optimizer=dict(type='SGD', lr=0.1)),
        generator=dict(optimizer=dict(type='Adam', lr=0.1)),
    )
    cost = measure_cost(Task(teacher, student, (16, 16)), model, optim, batch_size=16)
    assert 0 < cost.forward < cost.imitation < 10
    assert 0 < cost.forward < cost.generation < 10
    assert cost.place.endswith(' of this cpu')
    assert not torch.equal(next(student.parameters()), before)
    model['generator'] = dict(type='mmdfad.DeadLeaves', noise_dim=8, image_size=16, channels=3)
    assert measure_cost(Task(teacher, student, (16, 16)), model, optim, batch_size=16).generation == 0


# The config


def test_the_config_of_a_classifier(tmp_path, tiny, teacher_checkpoint):
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, 'auto:0.5', rounds=100)
    assert cfg.model.generator.type == 'mmdfad.AugmentedGenerator'
    bank = cfg.model.generator.generator
    assert (bank.type, bank.image_size, bank.channels, bank.count) == ('mmdfad.ImageBank', (16, 16), 3, 1024)
    assert bank.shift == cfg.model.generator.shift == 2
    assert [o.type for o in cfg.model.generation] == ['mmdfad.BNStatisticsPrior', 'mmdfad.TotalVariationPrior']
    assert [o.type for o in cfg.model.imitation] == ['mmdfad.KLDiscrepancy', 'mmdfad.StageImitation']
    assert cfg.model.start.type == 'mmdfad.LeastSquaresStart'
    assert cfg.model.start.begin == 40
    assert cfg.train_cfg.phases == [dict(name='generation', end=40), dict(name='imitation', steps=10, begin=40)]
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_begin) == (100, 41)
    assert cfg.train_dataloader.batch_size == 128
    assert len({line.partition(' = ')[0] for line in reasons}) == len(reasons)
    assert any(line.startswith('expected time = ') and 's for imitation, by a timed step' in line for line in reasons)
    assert (tmp_path / 'distill.py').read_text().count('expected time') == 1

    student, pixels = (learning_rates(cfg.param_scheduler[name], 100) for name in ('student', 'generator'))
    assert student[:41] == [1.0] * 41  # it has to be high when the student begins
    assert student == sorted(student, reverse=True)
    assert 0 < student[-1] < 0.01
    assert pixels[:40] == sorted(pixels[:40], reverse=True)
    assert 0 < pixels[39] < 0.01


def test_the_config_of_a_segmentor_with_large_images(tmp_path, tiny, teacher_checkpoints):
    teacher = tiny('teacher', scope='mmseg', pixels=None)
    arguments = (teacher, teacher_checkpoints[TINY_SEG], 'auto:0.5')
    cfg, _ = written(tmp_path, *arguments, image_size=(64, 96), batch_size=8, minutes=0.01)
    bank = cfg.model.generator.generator
    assert (bank.image_size, bank.count, bank.shift) == ((64, 96), 48, 4)
    assert 'temperature' not in cfg.model.imitation[0]
    assert cfg.train_cfg.max_iters == 21
    assert cfg.train_cfg.phases == [dict(name='generation', end=20), dict(name='imitation', steps=10, begin=20)]


@pytest.mark.parametrize(
    ('size', 'batch_size'),
    [((16, 16), 128), ((32, 32), 128), ((48, 48), 32), ((64, 64), 64), ((96, 128), 32), ((512, 1024), 8)],
)
def test_batches_are_in_inverse_proportion_to_the_area(size, batch_size):
    assert ils._batch_size(Choices(), Task(None, None, size)) == batch_size


def test_teachers_without_batch_norm_get_procedural_images(tmp_path, tiny):
    swin = dict(pixels=32, backbone=SWIN, head__in_channels=16)
    teacher = tiny('teacher', **swin)
    cfg, reasons = written(
        tmp_path, teacher, save_untrained(teacher, tmp_path / 'swin.pth'), teacher, rounds=3, batch_size=4
    )
    assert cfg.model.generator.generator.type == 'mmdfad.DeadLeaves'
    assert 'generation' not in cfg.model
    assert cfg.model.start.begin == 0
    assert cfg.train_cfg.phases == [dict(name='imitation', steps=10, begin=0)]
    assert cfg.optim_wrapper.student.optimizer.type == 'AdamW'
    assert any(line.startswith('generator = DeadLeaves: procedural images; the teacher has no') for line in reasons)


def test_networks_without_common_stages_imitate_logits(tmp_path, tiny, teacher_checkpoint):
    (tmp_path / 'nets.py').write_text(FLAT)
    flat = tmp_path / 'flat.py'
    flat.write_text(f"model = dict(type='mmdfad.TorchClassifier', factory='{tmp_path}/nets.py:Flat')")
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, flat, rounds=1, batch_size=8)
    assert [o.type for o in cfg.model.imitation] == ['mmdfad.KLDiscrepancy']
    assert any(line.startswith('imitation = logits: without stages: ') for line in reasons)


def test_grey_images(tmp_path):
    lenet = save_untrained(LENET, tmp_path / 'lenet.pth')
    cfg, _ = written(tmp_path, LENET, lenet, LENET, rounds=1, batch_size=8)
    assert (cfg.model.generator.generator.type, cfg.model.generator.generator.channels) == ('mmdfad.DeadLeaves', 1)


def test_the_config_is_one_that_runs(tmp_path, tiny, teacher_checkpoint):
    """Images, then the start, then imitation; and what the tool measured is in the config alone."""
    arguments = (tiny('teacher'), teacher_checkpoint, 'auto:0.5')
    cfg, _ = written(tmp_path, *arguments, rounds=4, batch_size=8)
    cfg.model.generator.generator.count = 16
    cfg.model.start.images = 16
    cfg.default_hooks.update(logger=dict(type='LoggerHook', interval=1))
    runner = build_runner(cfg, work_dir=str(tmp_path / 'run'))
    pixels = runner.model.generator.generator.pixels
    before = pixels.detach().clone()
    runner.train()
    assert not torch.equal(pixels, before)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    lines = [line for line in log.splitlines() if 'Round(train)' in line]
    assert ['generation_bn_statistics' in line for line in lines] == [True, True, False, False]
    assert ['imitation_stages' in line for line in lines] == [False, False, True, True]
    assert 'WARNING - Round' not in log
    assert (tmp_path / 'run/student.pth').exists()


# Flags


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (dict(method='gan'), "--method must be one of ils, dfad, but found 'gan'"),
        (dict(minutes=0.0), '--minutes must be a positive number, but found 0.0'),
        (dict(minutes=1.0, rounds=5), 'give either --minutes or --rounds, not both'),
    ],
)
def test_unusable_flags(tmp_path, flags, message):
    with pytest.raises(DistillError, match=message):
        write_distillation(tmp_path / 'distill.py', LENET, 'no.pth', LENET, **flags)


def test_minutes_of_dfad_decide_its_rounds(tmp_path, tiny, teacher_checkpoint):
    arguments = (tiny('teacher'), teacher_checkpoint, 'auto:0.5')
    few, many = (written(tmp_path, *arguments, method='dfad', minutes=m, batch_size=4)[0] for m in (0.001, 1.0))
    assert 1 <= few.train_cfg.max_iters < many.train_cfg.max_iters
    assert few.model.generator.type == 'mmdfad.UpsampleGenerator'
