import copy
import itertools
import json
import math
import multiprocessing
import shutil
import signal
from contextlib import nullcontext

import pytest
import ranks
import torch
import torch.nn.functional as F
from conftest import (
    TINY_SEG,
    assert_same_run,
    assert_same_state,
    both_tasks,
    build_runner,
    hook_of,
    keep_hooks,
    run,
    write_camvid,
)
from mmengine.hooks import Hook
from mmengine.runner.checkpoint import CheckpointLoader

from mmdfad.datasets import NoiseDataset
from mmdfad.datasets.noise import LOOK_SEED, PROBE_SEED, START_SEED
from mmdfad.models.starts import Start
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

IMITATION, GENERATION = dict(name='imitation', steps=2), dict(name='generation', steps=1)
STEPS = ('imitation_step', 'generation_step')


class Recorder(Hook):
    """Keeps which rounds the loop runs, and the steps of each with their noise and settings."""

    def before_train(self, runner):
        self.rounds, self.steps = [], []
        for name in STEPS:
            setattr(runner.model, name, self._recorded(name, getattr(runner.model, name)))

    def _recorded(self, name, step):
        def recorded(batch, optim_wrapper, round_index, progress, **settings):
            self.steps.append((round_index, name.removesuffix('_step'), batch, settings))
            return step(batch, optim_wrapper, round_index, progress, **settings)

        return recorded

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rounds.append(batch_idx)

    @property
    def names(self):
        """The name of each step, by round."""
        return [[name for number, name, _, _ in self.steps if number == i] for i in self.rounds]

    @property
    def noise(self):
        return torch.cat([noise for _, _, noise, _ in self.steps])


@MODELS.register_module()
class MarkStart(Start):
    """Notes when it was applied, and the images that it was given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def apply(self, teacher, student, sample):
        assert not student.training
        self.seen.append((sample(2), sample(3)))
        next(student.parameters()).add_(1)


def record(cfg, **changes):
    """Run, and return the runner and what was recorded."""
    runner, recorder = build_runner(cfg, **changes), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def resume(cfg, **changes):
    """Continue the run of a work directory to the end."""
    return record(cfg, resume=True, **changes)


@pytest.fixture
def bare_cfg(tiny_cfg):
    """The tiny distillation with checkpoints and acceleration, and nothing else."""
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration')
    return tiny_cfg


# Law 1: only noise.


@both_tasks
def test_a_run_reads_no_image(tiny_cfg, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('an image was read')

    for name in ('cv2.imread', 'cv2.imdecode', 'PIL.Image.open', 'mmcv.imread', 'mmcv.imfrombytes'):
        monkeypatch.setattr(name, refuse)
    seen = []
    original = torch.utils.data.DataLoader.__iter__
    monkeypatch.setattr(
        torch.utils.data.DataLoader, '__iter__', lambda self: seen.append(self.dataset) or original(self)
    )
    run(tiny_cfg)
    assert {type(dataset).__name__ for dataset in seen} == {'NoiseDataset'}


# Phases and their noise.


def test_every_step_has_fresh_noise(bare_cfg):
    """A step's batch is the slice of the noise stream that its number says."""
    phases = [dict(name='imitation', steps=3), dict(name='generation', steps=2)]
    runner, recorder = record(bare_cfg, train_cfg__max_iters=2, train_cfg__phases=phases)
    assert recorder.names == [['imitation'] * 3 + ['generation'] * 2] * 2
    assert torch.equal(recorder.noise, runner.train_dataloader.dataset.__getitems__(range(10 * 8)))


def test_noise_of_a_round_is_that_of_all_its_steps(bare_cfg):
    runner, recorder = record(bare_cfg, train_cfg__max_iters=2, train_cfg__noise='round')
    stream = runner.train_dataloader.dataset.__getitems__(range(2 * 8)).split(8)
    assert [torch.equal(noise, stream[i]) for i, _, noise, _ in recorder.steps] == [True] * 6


def test_phases_run_in_their_order_and_rounds(bare_cfg):
    phases = [dict(GENERATION, begin=1, end=3), dict(name='imitation'), dict(name='generation', steps=2, begin=2)]
    runner, recorder = record(bare_cfg, train_cfg__max_iters=4, train_cfg__phases=phases)
    first, second, third = ['imitation'], ['generation', 'imitation'], ['generation', 'generation']
    assert recorder.names == [first, second, second + third, first + third]
    assert torch.equal(recorder.noise, runner.train_dataloader.dataset.__getitems__(range(10 * 8)))


@pytest.mark.parametrize('noise', ['step', 'round'])
@pytest.mark.parametrize(
    'phases',
    [
        [dict(GENERATION, begin=1), IMITATION],
        [dict(GENERATION, begin=5), IMITATION],
        [dict(GENERATION, end=1), dict(IMITATION, begin=2, end=5), dict(GENERATION, begin=3)],
    ],
    ids=['begun', 'not begun', 'ended'],
)
def test_resume_finds_its_place_in_the_noise(bare_cfg, tmp_path, noise, phases):
    """In round 4, with phases that have not begun, have ended, or leave out a round."""
    bare_cfg.train_cfg.update(phases=phases, noise=noise)
    whole, all_steps = record(bare_cfg, work_dir=str(tmp_path / 'whole'))
    record(bare_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=4)
    resumed, last_steps = resume(bare_cfg, work_dir=str(tmp_path / 'parts'))
    assert last_steps.rounds == [4, 5]
    assert last_steps.names == all_steps.names[4:]
    assert torch.equal(last_steps.noise, all_steps.noise[-len(last_steps.noise) :])
    assert_same_run(resumed, whole)


def test_settings_of_a_phase_reach_its_steps(bare_cfg):
    phases = [IMITATION, dict(GENERATION, student_bn_eval=True)]
    runner = build_runner(bare_cfg, train_cfg__phases=phases, train_cfg__max_iters=1)
    recorder, counts = Recorder(), []
    runner.register_hook(recorder)
    norm = next(m for m in runner.model.student.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, inputs, output: counts.append(module.training))
    runner.train()
    assert [settings for _, _, _, settings in recorder.steps] == [{}, {}, dict(student_bn_eval=True)]
    assert counts[-3:] == [True, True, False]
    assert int(norm.num_batches_tracked) == 2
    assert norm.training  # restored


# Law 4: the paper's algorithm.


def logits_of(model, images):
    """Class logits, without any of mmdfad's code."""
    if hasattr(model, 'head'):
        return model(images, mode='tensor')
    dense = model.decode_head(model.backbone(images))
    return F.interpolate(dense, images.shape[2:], mode='bilinear', align_corners=model.decode_head.align_corners)


def reference(teacher, student, generator, noise, rounds, steps, adversary):
    """Algorithm 1 of the paper in plain PyTorch, for the settings of `test_rounds_equal_the_papers_algorithm`."""
    # Fused, as mmdfad has them on CPUs: torch's other implementations differ by rounding.
    student_optim = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    generator_optim = torch.optim.Adam(generator.parameters(), lr=1e-3, fused=True)
    teacher.eval()
    noise = iter(noise)
    for i in range(rounds):
        for optim, lr in ((student_optim, 0.1), (generator_optim, 1e-3)):
            optim.param_groups[0]['lr'] = lr * 0.1 ** (i // 8)  # x0.1 every 8 rounds
        student.train()
        generator.train()
        for _ in range(steps):
            student_optim.zero_grad()
            fake = generator(next(noise)).detach()
            t_logit = logits_of(teacher, fake).detach()
            s_logit = logits_of(student, fake)
            (s_logit - t_logit).abs().mean().backward()
            student_optim.step()
        generator_optim.zero_grad()
        fake = generator(next(noise))
        t_logit = logits_of(teacher, fake)
        s_logit = logits_of(student, fake)
        loss = (s_logit - t_logit).abs().mean()
        (-torch.log(loss + 1) if adversary == 'LogL1Discrepancy' else -loss).backward()
        generator_optim.step()


@both_tasks
@pytest.mark.parametrize('adversary', ['L1Discrepancy', 'LogL1Discrepancy'])
def test_rounds_equal_the_papers_algorithm(bare_cfg, adversary):
    rounds, steps, batch = 20, 5, bare_cfg.train_dataloader.batch_size
    schedule = [dict(type='MultiStepLR', by_epoch=False, milestones=[8, 16], gamma=0.1)]
    runner = build_runner(
        bare_cfg,
        model__generation=[dict(type=adversary)],
        # With a learning rate of 0.1, other rounding becomes other weights.
        default_hooks__acceleration=dict(fold_teacher=False, channels_last=False, optimize_dilated_convs=False),
        # As in the paper, all have one pixel space.
        model__student__data_preprocessor=bare_cfg.model.teacher.data_preprocessor,
        train_cfg__max_iters=rounds,
        train_cfg__phases=[dict(name='imitation', steps=steps), dict(name='generation')],
        param_scheduler=dict(student=schedule, generator=schedule),
        optim_wrapper__student__optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    )
    distiller = runner.model
    networks = copy.deepcopy((distiller.teacher.model, distiller.student.model, distiller.generator))
    norm = torch.nn.modules.batchnorm._BatchNorm
    assert all(any(isinstance(m, norm) for m in network.modules()) for network in networks)
    if hasattr(networks[1], 'auxiliary_head'):
        assert networks[1].auxiliary_head is None
    runner.train()

    noise = runner.train_dataloader.dataset.__getitems__(range(rounds * (steps + 1) * batch)).split(batch)
    reference(*networks, noise, rounds, steps, adversary)
    for name, ours, theirs in (
        ('student', distiller.student.model, networks[1]),
        ('generator', distiller.generator, networks[2]),
    ):
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(
                ours.state_dict()[key], value, rtol=0, atol=1e-6, msg=lambda m, k=f'{name}.{key}': f'{k}: {m}'
            )


# Law 5: resuming. Kills are in test_tools/test_kill.py, pairs of options in test_compose.py.


def make_eventful(cfg):
    """Dropout, averaged weights, workers, mixed precision, a memory and draws for each image."""
    student = cfg.model.student
    if 'decode_head' in student:
        student.decode_head.dropout_ratio = 0.5
    else:
        student.head.update(type='StackedLinearClsHead', mid_channels=[16], dropout_rate=0.5)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
    cfg.train_dataloader.num_workers = 2
    cfg.optim_wrapper.amp_dtype = 'bfloat16'
    replay = dict(type='ReplayGenerator', generator=cfg.model.generator, capacity=6, replayed=3, push=2)
    cfg.model.generator = dict(type='AugmentedGenerator', generator=replay, shift=2)
    priors = [dict(type='BNStatisticsPrior', weight=0.1), dict(type='OneHotPrior', weight=0.5)]
    cfg.model.generation = [*cfg.model.get('generation', [dict(type='L1Discrepancy')]), *priors]


@both_tasks
@pytest.mark.parametrize('extras', ['plain', 'eventful'])
def test_resumed_run_is_bitwise_the_same(tiny_cfg, tmp_path, extras):
    if extras == 'eventful':
        make_eventful(tiny_cfg)
    whole = run(tiny_cfg, work_dir=str(tmp_path / 'whole'))
    # A short run is the beginning of a long one, as schedulers have fixed rounds.
    run(tiny_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=4)
    resumed, recorder = resume(tiny_cfg, work_dir=str(tmp_path / 'parts'))
    assert recorder.rounds == [4, 5]
    assert_same_run(resumed, whole)
    exported = [torch.load(tmp_path / name / 'student.pth')['state_dict'] for name in ('parts', 'whole')]
    assert_same_state(*exported)


@pytest.mark.parametrize('extras', ['plain', 'eventful'])
def test_resume_in_the_middle_of_accumulation(bare_cfg, tmp_path, extras):
    """Round 4 ends after 8 student steps and 4 generator steps. An update takes 3 steps, so both are halfway."""
    if extras == 'eventful':
        make_eventful(bare_cfg)
    for part in ('student', 'generator'):
        bare_cfg.optim_wrapper[part].update(accumulative_counts=3, clip_grad=dict(max_norm=1.0))
    whole = run(bare_cfg, work_dir=str(tmp_path / 'whole'))
    checkpoint = tmp_path / 'whole/iter_4.pth'
    pending = torch.load(checkpoint, weights_only=False)['gradients']
    assert pending.keys() == {'student', 'generator'}
    assert all(any(g.any() for g in gradients.values()) for gradients in pending.values())
    resumed = build_runner(bare_cfg, work_dir=str(tmp_path / 'parts'), load_from=str(checkpoint), resume=True)
    resumed.train()
    assert_same_run(resumed, whole)


@pytest.mark.parametrize('persistent', [False, True])
def test_workers_end_with_the_run(bare_cfg, persistent):
    bare_cfg.train_dataloader.update(num_workers=2, persistent_workers=persistent)
    before = set(multiprocessing.active_children())
    during = set()

    class Look(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            during.update(multiprocessing.active_children())

    runner = build_runner(bare_cfg)
    runner.register_hook(Look())
    runner.train()
    assert len(during - before) == 2
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.slow
def test_two_ranks_resume_in_the_middle_of_accumulation(eventful_cfg, tmp_path):
    cfg = eventful_cfg
    for part in ('student', 'generator'):
        cfg.optim_wrapper[part].accumulative_counts = 3
    cfg.work_dir = str(tmp_path / 'whole')
    whole = ranks.train(cfg, 2)
    (tmp_path / 'parts').mkdir()
    shutil.copy(tmp_path / 'whole/iter_4.pth', tmp_path / 'parts')
    cfg.work_dir, cfg.resume = str(tmp_path / 'parts'), True
    for ours, theirs in zip(ranks.train(cfg, 2), whole, strict=True):
        assert_same_state(ours, theirs)


def test_a_run_without_seed_resumes_its_own(bare_cfg):
    bare_cfg.randomness = dict(seed=None)
    first = run(bare_cfg, train_cfg__max_iters=4)
    resumed, _ = resume(bare_cfg)
    assert resumed.seed == first.seed
    assert resumed.train_dataloader.dataset.seed == first.seed


def test_resuming_reads_the_checkpoint_once(bare_cfg, tmp_path, monkeypatch):
    run(bare_cfg, train_cfg__max_iters=2)
    read = []
    load = CheckpointLoader.load_checkpoint

    def spy(filename, *args, **kwargs):
        read.append(filename)
        return load(filename, *args, **kwargs)

    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', spy)
    run(bare_cfg, resume=True, train_cfg__max_iters=3)
    checkpoint = str(tmp_path / 'run/iter_2.pth')
    assert [name for name in read if name.endswith(checkpoint)] == [f'checked:{checkpoint}', checkpoint]


class Payload:
    """Would write a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_resume_runs_no_code_of_a_checkpoint(bare_cfg, tmp_path):
    run(bare_cfg, train_cfg__max_iters=2)
    path = tmp_path / 'run/iter_2.pth'
    content = torch.load(path, weights_only=False)
    content['extra'] = Payload(tmp_path / 'attacked')
    torch.save(content, path)
    with pytest.raises(DistillError, match=r'iter_2.pth holds more than weights: reading it would run'):
        run(bare_cfg, resume=True)
    assert not (tmp_path / 'attacked').exists()


@pytest.mark.parametrize('dataset', ['NoiseDataset', 'ProbeDataset'])
def test_validation_and_pictures_do_not_change_the_student(tiny_cfg, tmp_path, dataset):
    noise = dict(type=f'mmdfad.{dataset}', seed=1, length=20)
    validating = dict(
        val_dataloader=dict(batch_size=8, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
        train_cfg__val_interval=1,
        default_hooks__synthetic_images__interval=1,
        default_hooks__health__interval=1,
    )
    a = run(tiny_cfg, work_dir=str(tmp_path / 'a'), **validating)
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration')
    b = run(tiny_cfg, work_dir=str(tmp_path / 'b'))
    assert 0 <= a.message_hub.get_scalar('val/agreement').current() <= 1
    assert_same_state(a.model.state_dict(), b.model.state_dict())


def test_validation_rounds(bare_cfg, tmp_path):
    noise = dict(type='mmdfad.NoiseDataset', seed=1, length=4)
    runner = run(
        bare_cfg,
        val_dataloader=dict(batch_size=4, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
        train_cfg__max_iters=7,
        train_cfg__val_begin=3,
        train_cfg__val_interval=2,
    )
    assert len(runner.message_hub.get_scalar('val/agreement').data[0]) == 3
    logged = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    validated = [json.loads(line)['step'] for line in logged if '"data_time"' in line and '"iter"' not in line]
    assert validated == [4, 6, 7]


def test_seeds_differ(bare_cfg, tmp_path):
    a, b = (
        run(bare_cfg, randomness__seed=seed, work_dir=str(tmp_path / str(seed)), train_cfg__max_iters=1)
        for seed in (0, 1)
    )
    assert not torch.equal(a.model.generator.project.weight, b.model.generator.project.weight)
    assert a.train_dataloader.dataset.seed == 0
    assert b.train_dataloader.dataset.seed == 1


# The start of the student.


def test_start_is_applied_once_before_its_round(bare_cfg):
    changes = dict(model__start=dict(type='mmdfad.MarkStart', begin=2), train_cfg__max_iters=4)
    runner = build_runner(bare_cfg, **changes)
    values, generator = [], runner.model.generator

    class Look(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            values.append(float(next(runner.model.student.parameters()).mean()))

    runner.register_hook(Look())
    runner.train()
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    assert [step > 0.9 for step in steps] == [False, True, False]
    ((two, three),) = runner.model.start.seen
    assert two.shape == (2, 3, 16, 16)
    assert three.shape == (3, 3, 16, 16)
    assert not two.requires_grad
    assert len({START_SEED, PROBE_SEED, LOOK_SEED, runner.seed}) == 4

    # A run that was interrupted before the start applies it; one that was interrupted after it does not.
    early, _ = resume(bare_cfg, load_from=f'{runner.work_dir}/iter_2.pth', **changes)
    assert len(early.model.start.seen) == 1
    assert torch.equal(early.model.start.seen[0][0], two)
    late, _ = resume(bare_cfg, load_from=f'{runner.work_dir}/iter_4.pth', **{**changes, 'train_cfg__max_iters': 5})
    assert late.model.start.seen == []
    assert generator.training


def test_images_of_a_start_are_those_of_its_own_noise(bare_cfg):
    runner = build_runner(bare_cfg, model__start=dict(type='mmdfad.MarkStart'), train_cfg__max_iters=1)
    first = copy.deepcopy(runner.model.generator)
    runner.train()
    two, three = runner.model.start.seen[0]
    noise = NoiseDataset(16, START_SEED).__getitems__(range(5))
    with torch.no_grad():
        assert torch.allclose(first(noise[:2]), two, atol=1e-5)
        assert torch.allclose(first(noise[2:]), three, atol=1e-5)


def test_a_start_gets_as_many_images_as_it_asks_for(bare_cfg):
    """Also from a generator that adds images to each batch."""
    bare_cfg.model.generator = dict(type='ReplayGenerator', generator=bare_cfg.model.generator, capacity=8, replayed=2)
    bare_cfg.model.start = dict(type='mmdfad.MarkStart', begin=1)
    runner = run(bare_cfg, train_cfg__max_iters=2)
    assert len(runner.model.generator.memory) >= 2
    assert [len(images) for images in runner.model.start.seen[0]] == [2, 3]


# First only images, then the start, then only imitation.


def in_three_parts(cfg):
    """The start comes before round 3. All hooks act in each round."""
    phases = [dict(GENERATION, end=3), dict(IMITATION, begin=3)]
    cfg.train_cfg.update(phases=phases, max_iters=6, val_begin=4, val_interval=1)
    cfg.model.update(start=dict(type='mmdfad.MarkStart', begin=3), generation=[dict(type='BNStatisticsPrior')])
    cfg.param_scheduler.student = [dict(type='CosineAnnealingLR', by_epoch=False, begin=3, end=7)]
    cfg.update(
        val_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=dict(type='mmdfad.NoiseDataset', seed=1, length=4),
            sampler=dict(type='mmdfad.NoiseSampler'),
        ),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
    )
    for name in ('checkpoint', 'synthetic_images', 'health', 'logger'):
        cfg.default_hooks[name].interval = 1
    return cfg


def test_a_run_in_three_parts(tiny_cfg, tmp_path):
    runner, recorder = record(in_three_parts(tiny_cfg))
    assert recorder.names == [['generation']] * 3 + [['imitation'] * 2] * 3
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    lines = [line for line in log.splitlines() if 'Round(train)' in line]
    # Each line has the values of its own phase only.
    assert ['generation_loss' in line for line in lines] == [True] * 3 + [False] * 3
    assert ['imitation_loss' in line for line in lines] == [False] * 3 + [True] * 3
    # Not before the student has started.
    assert len(runner.message_hub.get_scalar('val/agreement').data[0]) == 3
    assert not [line for line in log.splitlines() if ' WARNING ' in line and 'Round' in line]
    scheduler = runner.param_schedulers['student'][0]
    assert scheduler.last_step == 3


@pytest.mark.parametrize('rounds', [2, 3, 4])
def test_a_run_in_three_parts_resumes_exactly(tiny_cfg, tmp_path, rounds):
    """Interrupted before, at, and after the start, with updates that are halfway then. Law 5 across the start."""
    cfg = in_three_parts(tiny_cfg)
    cfg.model.start = dict(type='mmdfad.LeastSquaresStart', images=6, batch_size=4, begin=3)
    for part in ('student', 'generator'):
        cfg.optim_wrapper[part].accumulative_counts = 2
    keep_hooks(cfg, 'checkpoint', 'acceleration')
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    whole = run(cfg, work_dir=str(tmp_path / 'whole'))
    checkpoint = str(tmp_path / f'whole/iter_{rounds}.pth')
    resumed, recorder = resume(cfg, work_dir=str(tmp_path / 'parts'), load_from=checkpoint)
    assert recorder.rounds == [*range(rounds, 6)]
    assert bool(resumed.model.start.errors) == (rounds < 4)
    assert_same_run(resumed, whole)


def test_validations_take_a_bounded_share_of_the_time(bare_cfg, tmp_path):
    """The first and the last one are never left out."""

    class Slow(Hook):
        def after_val_epoch(self, runner, metrics=None):
            validated.append(runner.iter)
            runner.train_loop.stopwatch._seconds['validation'] += 1000

    validated = []
    noise = dict(type='mmdfad.NoiseDataset', seed=1, length=4)
    for share, expected in ((0.25, [1, 5]), (1, [1, 2, 3, 4, 5])):
        validated.clear()
        runner = build_runner(
            bare_cfg,
            val_dataloader=dict(batch_size=4, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
            val_evaluator=dict(type='mmdfad.AgreementMetric'),
            val_cfg=dict(),
            train_cfg__max_iters=5,
            train_cfg__val_interval=1,
            train_cfg__val_share=share,
            work_dir=str(tmp_path / str(share)),
        )
        runner.register_hook(Slow())
        runner.train()
        assert validated == expected
        log = next((tmp_path / str(share)).glob('*/*.log')).read_text()
        assert log.count('Leaving out validations that would take more than 25% of the time') == (share < 1)


def test_a_validation_that_was_left_out_is_not_made_up(bare_cfg, tmp_path):
    class Slow(Hook):
        def after_val_epoch(self, runner, metrics=None):
            validated.append(runner.iter)
            runner.train_loop.stopwatch._seconds['validation'] += 1000

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 3 and not resume:
                raise KeyboardInterrupt

    validated = []
    noise = dict(type='mmdfad.NoiseDataset', seed=1, length=4)
    loader = dict(batch_size=4, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler'))
    bare_cfg.update(val_dataloader=loader, val_evaluator=dict(type='mmdfad.AgreementMetric'), val_cfg=dict())
    bare_cfg.train_cfg.update(val_interval=1, val_share=0.25, max_iters=4)
    bare_cfg.default_hooks.checkpoint.interval = 1
    for resume in (False, True):
        runner = build_runner(bare_cfg, resume=resume)
        runner.register_hook(Slow())
        with nullcontext() if resume else pytest.raises(KeyboardInterrupt):
            runner.train()
    assert validated == [1, 4]  # 2 and 3 would have taken too long


@pytest.mark.parametrize('begins', [(8, 7), (7, 8)])
def test_parts_that_a_run_ends_before_are_named(bare_cfg, tmp_path, begins):
    """Also if two phases have the same name."""
    bare_cfg.train_cfg.max_iters = 2
    late = [dict(IMITATION, begin=begin, end=begin + 1) for begin in begins]
    bare_cfg.train_cfg.phases = [GENERATION, dict(IMITATION, end=5), *late]
    run(bare_cfg)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    for begin in begins:
        assert f'the imitation phase begins in round {begin} (from 0), but the run has 2 rounds' in log


# How training ends.


@pytest.mark.parametrize('fails', [False, True])
def test_signal_handlers_are_those_of_before_when_training_ends(tiny_cfg, fails):
    class Fail(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(signal.getsignal(signal.SIGTERM))
            if fails:
                raise ValueError('something went wrong')

    before, seen = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)], []
    runner = build_runner(tiny_cfg, train_cfg__max_iters=1)
    runner.register_hook(Fail())
    if fails:
        with pytest.raises(ValueError, match='something went wrong'):
            runner.train()
    else:
        runner.train()
    assert seen[0] != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# What a person sees.


def test_log_has_rounds_losses_rates_and_agreement(tiny_cfg, tmp_path):
    runner = run(tiny_cfg, train_cfg__max_iters=2)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    line = next(line for line in log.splitlines() if 'Round(train)' in line)
    for part in ('[1/2]', 'student.lr:', 'generator.lr:', 'eta:', 'imitation_loss:', 'generation_loss:', 'agreement:'):
        assert part in line
    assert list((tmp_path / 'run').glob('*/vis_data/scalars.json'))
    assert runner.message_hub.get_scalar('train/agreement').current() <= 1


# Bad input.


def test_noise_dim_mismatch(tiny_cfg):
    with pytest.raises(DistillError, match=r'\[N, 16\] \(model.generator.noise_dim\).*\[8, 12\]'):
        run(tiny_cfg, train_dataloader__dataset__noise_dim=12)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(max_iters=0), 'train_cfg.max_iters must be a whole number, 1 or more, but found 0'),
        (dict(noise='epoch'), "train_cfg.noise must be one of step, round, but found 'epoch'"),
        (dict(phases=[dict(name='imitation', steps=0)]), r'phases\[0\].steps must be a whole number, 1 or more'),
        (dict(imitation_steps=5), 'train_cfg.imitation_steps is a setting of an earlier version; write train_cfg.phas'),
        (dict(phase=[]), 'train_cfg.phase is unknown; did you mean phases'),
    ],
)
def test_bad_settings(tiny_cfg, settings, message):
    with pytest.raises(DistillError, match=message):
        run(tiny_cfg, **{f'train_cfg__{key}': value for key, value in settings.items()})


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_batch_of_one_with_pooled_batch_norm(tiny_cfg):
    with pytest.raises(DistillError, match=r'cannot train on one image.* raise train_dataloader.batch_size=1'):
        run(tiny_cfg, train_dataloader__batch_size=1)


def test_samplers_must_be_able_to_skip(tiny_cfg):
    with pytest.raises(DistillError, match=r'train_dataloader.sampler must be able to skip.*DefaultSampler'):
        run(
            tiny_cfg,
            train_dataloader__sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False),
            train_dataloader__dataset__length=100,
        )


# Baselines: images that no generator makes.


def test_random_images_need_no_generator(bare_cfg):
    """There is nothing to update, so the generation phase is left out."""
    runner, recorder = record(
        bare_cfg,
        model__generator=dict(_delete_=True, type='RandomImageGenerator', image_size=16),
        train_cfg__max_iters=2,
    )
    assert recorder.names == [['imitation'] * 2] * 2
    assert [part for part, _ in runner.optim_wrapper.items()] == ['student']
    assert math.isfinite(runner.message_hub.get_scalar('train/imitation_loss').current())


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_real_images_in_place_of_the_generator(bare_cfg, tmp_path):
    """The student sees what the teacher's preprocessor makes of the images, and resumes in their order."""
    write_camvid(tmp_path / 'camvid')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackSegInputs')]
    images = dict(type='mmdfad.CamVidDataset', ann_file='train.txt', pipeline=pipeline)
    bare_cfg.model.generator = dict(type='RandomImageGenerator', image_size=32)
    bare_cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(images, data_root=str(tmp_path / 'camvid')),
        sampler=dict(type='InfiniteSampler', shuffle=True),
    )
    whole = build_runner(bare_cfg, work_dir=str(tmp_path / 'whole'))
    seen = []
    whole.model.teacher.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    whole.train()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([120.0, 110.0, 100.0], [60.0, 55.0, 50.0]))
    images = sorted(float(x.mean()) for x in seen[0] * std + mean)
    assert images == pytest.approx([ord('a'), ord('b')], abs=1e-3)
    run(bare_cfg, work_dir=str(tmp_path / 'parts'), train_cfg__max_iters=4)
    resumed = run(bare_cfg, work_dir=str(tmp_path / 'parts'), resume=True)
    assert_same_state(resumed.model.state_dict(), whole.model.state_dict())


def test_averages_begin_with_the_start(bare_cfg, tmp_path):
    """Otherwise an average of momentum 2e-4 would stay near the weights that the start has replaced."""
    keep_hooks(bare_cfg, 'checkpoint')
    bare_cfg.model.start = dict(type='mmdfad.ChannelSelection', begin=3)
    runner = run(bare_cfg, train_cfg__max_iters=4, custom_hooks=[dict(type='EMAHook')])
    average = hook_of(runner, 'EMAHook').ema_model.module.student.state_dict()
    for key, value in runner.model.student.state_dict().items():
        torch.testing.assert_close(average[key], value, rtol=0, atol=0)


def test_noise_that_ends(bare_cfg):
    with pytest.raises(DistillError, match=r'train_dataloader has no more batches: raise its dataset.length'):
        run(bare_cfg, train_dataloader__dataset__length=24, train_cfg__max_iters=9)
