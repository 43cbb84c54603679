"""The default method of ``write_distillation``: inversion and least squares."""

import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY_SEG, build_runner
from mmengine.config import Config
from tiny_configs import SWIN, save_untrained, write_tiny
from torch import nn

from mmdfad.apis import write_distillation
from mmdfad.apis.choices import Choices, Task
from mmdfad.apis.cost import Cost, measure_cost
from mmdfad.apis.methods import ils, ils_images
from mmdfad.models.build import build_network
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError
from test_apis.test_distill import LENET, learning_rates

# Seconds. Ten steps of imitation take 5 s.
COST = Cost(generation=0.8, imitation=0.5, forward=0.4, place='on paper', memory=2**30)
START = 38.4
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


def recipe(inverts=True, **flags):
    return ils.choose_recipe(SimpleNamespace(**dict(rounds=None, minutes=None) | flags), COST, START, inverts)


# How much of each part


def seconds_of(found: ils.Recipe, adversary: float = 0.0) -> tuple[float, float]:
    """Until imitation begins, and of imitation, with so many seconds of an adversary in each round."""
    return START + found.images * COST.generation, found.imitation * (ils.STEPS * COST.imitation + adversary)


@pytest.mark.parametrize('minutes', [3, 5, 20, 300])
def test_rounds_of_a_time(minutes):
    found = recipe(minutes=minutes)
    first, imitation = seconds_of(found)
    steps = ils.STEPS_SHARE * 60 * minutes  # the rest is for validation and checkpoints
    if found.images == ils.MOST_IMAGE_ROUNDS:
        assert first < ils.IMAGES_SHARE * steps
    else:
        assert ils.IMAGES_SHARE * steps - COST.generation < first <= ils.IMAGES_SHARE * steps
    assert (found.images == ils.MOST_IMAGE_ROUNDS) == (minutes >= 20)
    assert steps - ils.STEPS * COST.imitation <= first + imitation <= steps


def test_a_short_time_leaves_the_fewest_images():
    assert recipe(minutes=0.1) == ils.Recipe(images=ils.FEWEST_IMAGE_ROUNDS, imitation=1)  # takes longer
    found = recipe(minutes=1.2)
    assert found.images == ils.FEWEST_IMAGE_ROUNDS
    assert found.imitation > 1
    assert sum(seconds_of(found)) <= ils.STEPS_SHARE * 72


def test_without_a_time_the_rounds_are_the_methods():
    images = ils.IMAGE_ROUNDS
    assert recipe() == ils.Recipe(images, ils.ROUNDS)
    assert recipe(rounds=3 * images) == ils.Recipe(images, 2 * images)
    assert recipe(rounds=images + 1) == ils.Recipe((images + 1) // 2, images // 2 + 1)
    assert recipe(rounds=1) == ils.Recipe(images=0, imitation=1)


def test_an_adversary_learns_in_the_rounds_of_imitation():
    assert recipe(inverts=False) == ils.Recipe(images=0, imitation=ils.ROUNDS)
    assert recipe(inverts=False, rounds=7) == ils.Recipe(images=0, imitation=7)
    found = recipe(inverts=False, minutes=10)
    assert found.images == 0
    steps, a_round = ils.STEPS_SHARE * 600, ils.STEPS * COST.imitation + COST.generation
    assert steps - a_round < sum(seconds_of(found, adversary=COST.generation)) <= steps


def test_cost_is_that_of_real_steps(tiny, teacher_checkpoint):
    teacher = build_network(dict(cfg_path=str(tiny('teacher')), checkpoint=teacher_checkpoint), 'teacher')
    student = build_network(dict(cfg_path=str(tiny('student'))), 'student')
    before = next(student.parameters()).clone()
    model = dict(
        generator=dict(type='mmdfad.UpsampleGenerator', noise_dim=8, image_size=16, width=8),
        generation=[dict(type='mmdfad.L1Discrepancy')],
    )
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
    del model['generation']
    assert measure_cost(Task(teacher, student, (16, 16)), model, optim, batch_size=16).generation == 0


# The config


@pytest.fixture(scope='module')
def classifier(tmp_path_factory, teacher_checkpoint) -> tuple[str, list[str]]:
    """A config of the method's own rounds for a small classifier of 32x32 and batches of 8, and the reasons in it."""
    folder = tmp_path_factory.mktemp('classifier')
    teacher = write_tiny(folder, 'teacher', pixels=32)
    reasons = write_distillation(folder / 'distill.py', str(teacher), teacher_checkpoint, 'auto:0.5', batch_size=8)
    return (folder / 'distill.py').read_text(), reasons


@pytest.fixture
def classifier_cfg(classifier) -> Config:
    return Config.fromstring(classifier[0], '.py')


def test_images_are_those_of_a_pool(classifier_cfg):
    augmented = classifier_cfg.model.generator
    assert augmented.type == 'mmdfad.AugmentedGenerator'
    pool = augmented.generator
    assert (pool.type, pool.generator.type) == ('mmdfad.InversionPool', 'mmdfad.DecoderGenerator')
    assert (pool.generator.image_size, pool.generator.channels) == ((32, 32), 3)
    assert pool.shift == augmented.shift == ils_images.SMALL_SHIFT
    assert augmented.cut == ils_images.CUT
    assert [o.type for o in classifier_cfg.model.generation] == ['mmdfad.BNStatisticsPrior', 'mmdfad.SpectrumPrior']


@pytest.mark.parametrize(
    ('rounds', 'renew', 'warmup', 'kept'),
    [(0, 1, 0, 1), (1, 1, 0, 1), (10, 10, 3, 7), (60, 60, 20, 40), (100, 50, 16, 68), (180, 60, 20, 120)],
)
def test_generators_have_about_as_many_rounds_each(rounds, renew, warmup, kept):
    settings = ils_images.pool_settings(SimpleNamespace(size=(32, 32), image_settings=dict(channels=3)), 8, rounds)
    assert settings == dict(capacity=8 * kept, renew=renew, warmup=warmup)


def test_pools_and_banks_have_a_largest_size():
    task = SimpleNamespace(size=(1024, 1024), image_settings=dict(channels=3), large=True, dense=True)
    most = ils_images.POOL_BYTES // (4 * 3 * 1024**2)
    assert ils_images.pool_settings(task, 8, 300)['capacity'] == most
    for batch_size, count in ((8, most), (most + 1, most + 1)):
        settings = (Choices(), task, ils_images.Images.PROCEDURAL, batch_size, 300)
        assert ils_images.image_generator(*settings)['generator']['count'] == count


def test_rounds_of_images_then_the_start_then_imitation(classifier_cfg):
    begin = classifier_cfg.model.start.begin
    assert begin == ils.IMAGE_ROUNDS
    assert classifier_cfg.model.start.type == 'mmdfad.LeastSquaresStart'
    assert [o.type for o in classifier_cfg.model.imitation] == ['mmdfad.KLDiscrepancy', 'mmdfad.StageImitation']
    loop = classifier_cfg.train_cfg
    assert loop.phases == [dict(name='generation', end=begin), dict(name='imitation', steps=ils.STEPS, begin=begin)]
    assert (loop.max_iters, loop.val_begin) == (begin + ils.ROUNDS, begin + 1)
    rates = learning_rates(classifier_cfg.param_scheduler.student, loop.max_iters)
    assert rates[: begin + 1] == [1.0] * (begin + 1)  # it has to be high when the student begins
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.01


def test_reasons_tell_each_choice_and_the_cost_once(classifier):
    text, reasons = classifier
    assert len({line.partition(' = ')[0] for line in reasons}) == len(reasons)
    assert any(line.startswith('expected time = ') and 's for imitation, by a timed step' in line for line in reasons)
    assert text.count('expected time') == 1


def test_a_segmentor_has_larger_shifts_and_no_temperature(tmp_path, tiny, teacher_checkpoints):
    teacher = tiny('teacher', scope='mmseg', pixels=None)
    arguments = (teacher, teacher_checkpoints[TINY_SEG], 'auto:0.5')
    cfg, _ = written(tmp_path, *arguments, image_size=(64, 32), batch_size=4, minutes=0.01)
    assert 'cut' not in cfg.model.generator
    pool = cfg.model.generator.generator
    begin = ils.FEWEST_IMAGE_ROUNDS
    kept = begin - int(ils_images.WARMUP_SHARE * begin)
    assert (pool.type, pool.shift, pool.capacity) == ('mmdfad.InversionPool', ils_images.SHIFT, kept * 4)
    assert (pool.generator.type, pool.generator.image_size) == ('mmdfad.DecoderGenerator', (64, 32))
    assert 'temperature' not in cfg.model.imitation[0]
    assert cfg.model.imitation[1].weight == ils.STAGES_WEIGHT
    assert cfg.optim_wrapper.student.optimizer.lr == ils.DENSE_LR
    assert cfg.train_cfg.max_iters == begin + 1
    assert [phase.name for phase in cfg.train_cfg.phases] == ['generation', 'imitation']


def enlarged(settings, times: int):
    """Settings for a batch that is so many times as large."""
    if isinstance(settings, list):
        return [enlarged(part, times) for part in settings]
    if not isinstance(settings, dict):
        return settings
    grow = ('batch_size', 'base_batch_size', 'capacity')
    return {key: times * value if key in grow else enlarged(value, times) for key, value in settings.items()}


def test_shipped_bases_are_what_the_tool_writes(tmp_path, tiny, classifier_cfg, teacher_checkpoints):
    teacher = tiny('teacher', scope='mmseg', pixels=None)
    arguments = (teacher, teacher_checkpoints[TINY_SEG], 'auto:0.5')
    segmentor, _ = written(tmp_path, *arguments, image_size=(96, 128), batch_size=2)
    for name, cfg in dict(ils=classifier_cfg, ils_seg=segmentor).items():
        base = Config.fromfile(ROOT / f'configs/_base_/methods/{name}.py')
        for part in ('generator', 'generation', 'start', 'imitation'):
            assert base.model[part] == enlarged(cfg.model[part], 8), (name, part)
        for part in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'auto_scale_lr'):
            assert base[part] == enlarged(cfg[part], 8), (name, part)


@pytest.mark.parametrize('size', [(16, 16), (28, 28), (32, 32), (64, 96), (96, 128), (224, 224), (512, 1024)])
def test_a_decoder_begins_with_a_few_pixels(size):
    first = min(size) / 2 ** ils_images.upsamplings(size)
    assert 3 < first < 7


@pytest.mark.parametrize(
    ('size', 'batch_size'),
    [((16, 16), 64), ((32, 32), 64), ((48, 48), 16), ((64, 64), 32), ((96, 128), 16), ((512, 1024), 8)],
)
def test_batches_are_in_inverse_proportion_to_the_area(size, batch_size):
    assert ils._batch_size(Choices(), Task(None, None, size)) == batch_size


def test_transformers_imitate_on_procedural_images(tmp_path, tiny):
    swin = dict(pixels=32, backbone=SWIN, head__in_channels=16)
    teacher = tiny('teacher', **swin)
    cfg, reasons = written(
        tmp_path, teacher, save_untrained(teacher, tmp_path / 'swin.pth'), teacher, rounds=3, batch_size=4
    )
    bank = cfg.model.generator.generator
    assert (cfg.model.generator.type, cfg.model.generator.shift) == (
        'mmdfad.AugmentedGenerator',
        ils_images.SMALL_SHIFT,
    )
    assert (bank.type, bank.count, bank.fixed, bank.candidates) == (
        'mmdfad.ImageBank',
        ils_images.BANK_BATCHES * 4,
        True,
        8,
    )
    assert [part.type for part in bank.init.generators] == ['mmdfad.Strokes', 'mmdfad.DeadLeaves']
    assert 'generation' not in cfg.model
    assert [o.type for o in cfg.model.imitation] == ['mmdfad.KLDiscrepancy', 'mmdfad.StageImitation']
    assert cfg.model.imitation[1].weight == ils.STAGES_WEIGHT
    assert cfg.model.start.begin == 0
    assert cfg.train_cfg.phases == [dict(name='imitation', steps=ils.STEPS, begin=0)]
    assert cfg.param_scheduler.generator == []
    assert cfg.optim_wrapper.student.optimizer.type == 'AdamW'
    assert not any(line.startswith('rounds of images') for line in reasons)
    assert any(line.startswith('images = strokes and dead leaves (one in 8, chosen by ') for line in reasons)
    assert len({line.partition(' = ')[0] for line in reasons}) == len(reasons)


def test_other_teachers_without_batch_norm_get_an_adversary_and_procedural_images(tmp_path):
    lenet = save_untrained(LENET, tmp_path / 'lenet.pth')
    cfg, reasons = written(tmp_path, LENET, lenet, LENET, rounds=3, batch_size=4)
    adversary, bank = cfg.model.generator.generators
    assert cfg.model.generator.shares == [ils_images.ADVERSARY_SHARE, 1]
    assert (adversary.type, adversary.width) == ('mmdfad.UpsampleGenerator', ils_images.ADVERSARY_WIDTH)
    assert (bank.type, bank.count, bank.fixed, bank.candidates) == (
        'mmdfad.ImageBank',
        ils_images.BANK_BATCHES * 4,
        True,
        8,
    )
    assert [part.type for part in bank.init.generators] == ['mmdfad.Strokes', 'mmdfad.DeadLeaves']
    assert [o.type for o in cfg.model.generation] == [o.type for o in cfg.model.imitation] == ['mmdfad.L1Discrepancy']
    assert cfg.train_cfg.phases == [dict(name='imitation', steps=ils.STEPS, begin=0), dict(name='generation')]
    assert cfg.param_scheduler.generator == cfg.param_scheduler.student
    assert any(
        line.startswith('images = 3 of an adversary to 1 of strokes and dead leaves (one in 8, ') for line in reasons
    )
    assert len({line.partition(' = ')[0] for line in reasons}) == len(reasons)


def test_transformers_warm_up(tmp_path, tiny):
    teacher = tiny('teacher', pixels=32, backbone=SWIN, head__in_channels=16)
    cfg, _ = written(
        tmp_path, teacher, save_untrained(teacher, tmp_path / 'swin.pth'), teacher, rounds=40, batch_size=4
    )
    student = learning_rates(cfg.param_scheduler.student, 40)
    assert student[:5] == sorted(student[:5])
    assert student[0] < 0.05 < 0.9 < student[4]
    assert student[5:] == sorted(student[5:], reverse=True)


def test_other_students_learn_as_versions_of_the_teacher_do(tmp_path, tiny, teacher_checkpoint, classifier_cfg):
    other = tiny('student', backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=0.25), head__in_channels=1280)
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, other, rounds=1, batch_size=8)
    assert cfg.optim_wrapper.student.optimizer == ils.ADAMW
    assert cfg.optim_wrapper.student == classifier_cfg.optim_wrapper.student
    assert any(line.startswith('optimizer = AdamW: with clipped gradients') for line in reasons)


def test_networks_without_common_stages_imitate_logits(tmp_path, tiny, teacher_checkpoint):
    (tmp_path / 'nets.py').write_text(FLAT)
    flat = tmp_path / 'flat.py'
    flat.write_text(f"model = dict(type='mmdfad.TorchClassifier', factory='{tmp_path}/nets.py:Flat')")
    cfg, reasons = written(tmp_path, tiny('teacher'), teacher_checkpoint, flat, rounds=1, batch_size=8)
    assert [o.type for o in cfg.model.imitation] == ['mmdfad.KLDiscrepancy']
    assert any(line.startswith('imitation = logits: without stages: ') for line in reasons)


def test_an_adversary_of_grey_images_runs(tmp_path):
    lenet = save_untrained(LENET, tmp_path / 'lenet.pth')
    cfg, _ = written(tmp_path, LENET, lenet, LENET, rounds=2, batch_size=8)
    assert {generator.channels for generator in cfg.model.generator.generators} == {1}
    assert cfg.optim_wrapper.student.optimizer == ils.SGD
    cfg.model.generator.generators[1].count = cfg.model.start.images = 16
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg.pop(key)  # MNIST would be downloaded
    runner = build_runner(cfg, work_dir=str(tmp_path / 'run'))
    adversary, bank = runner.model.generator.generators
    before = next(adversary.parameters()).detach().clone()
    runner.train()
    assert bank.filled
    assert bank.pixels.std() > 0.1
    assert not torch.equal(before, next(adversary.parameters()))


def test_the_config_is_one_that_runs(tmp_path, tiny, teacher_checkpoint):
    """Images, then the start, then imitation."""
    arguments = (tiny('teacher'), teacher_checkpoint, 'auto:0.5')
    cfg, _ = written(tmp_path, *arguments, rounds=4, batch_size=8)
    cfg.model.start.images = 16
    cfg.default_hooks.logger.interval = 1
    runner = build_runner(cfg, work_dir=str(tmp_path / 'run'))
    pool = runner.model.generator.generator
    before = next(pool.generator.parameters()).detach().clone()
    runner.train()
    assert not torch.equal(before, next(pool.generator.parameters()))
    assert len(pool.memory) == cfg.model.generator.generator.capacity == 2 * 8
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


@pytest.mark.parametrize(('minutes', 'expected'), [(None, ils.CANDIDATES), (1000, ils.CANDIDATES), (0.001, 1)])
def test_candidates_take_a_share_of_the_time(minutes, expected):
    def predict(images):
        assert images.shape == (4, 1, 8, 8)
        time.sleep(0.01)

    settings = dict(noise_dim=8, image_size=(8, 8), channels=1)
    space = PixelSpace(torch.zeros(1).double(), torch.ones(1).double(), False)
    teacher = SimpleNamespace(pixel_space=space, predict=predict)
    task = SimpleNamespace(image_settings=settings, dense=False, minutes=minutes, size=(8, 8), teacher=teacher)
    candidates, seconds = ils._candidates(task, 4)
    assert candidates == expected
    assert seconds >= candidates * ils_images.BANK_BATCHES * 0.01 if candidates > 1 else seconds == 0


def test_large_images_are_few():
    task = SimpleNamespace(image_settings=dict(channels=3), size=(1024, 1024))
    assert ils_images.bank_images(task, 8, ils_images.BANK_BATCHES) == 2**30 // (4 * 3 * 1024**2) == 85


def test_several_labels_have_no_one_confidence(tmp_path, tiny):
    head = dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=5, in_channels=16)
    teacher = tiny('teacher', pixels=32, backbone=SWIN, head=head)
    weights = save_untrained(teacher, tmp_path / 'swin.pth')
    cfg, _ = written(tmp_path, teacher, weights, teacher, rounds=1, batch_size=4)
    assert 'candidates' not in cfg.model.generator.generator


@pytest.mark.parametrize(('width', 'expected'), [(16, 5e-3), (32, 5e-3), (384, 4.2e-4)])
def test_wide_transformers_learn_more_slowly(width, expected):
    student = SimpleNamespace(logits=nn.Sequential(nn.LayerNorm(8), nn.LayerNorm(width)))
    found = ils._optimizer(Choices(), SimpleNamespace(student=student), ils_images.Images.PROCEDURAL)
    assert found['optimizer']['lr'] == expected
