import math
from pathlib import Path

import pytest
import torch
from conftest import assert_same_state, both_tasks, build_runner, keep_hooks, run
from mmengine.hooks import Hook

from mmdfad.engine.hooks.health import measure
from mmdfad.models.generators import RandomImageGenerator
from mmdfad.registry import HOOKS, MODELS
from mmdfad.utils import DistillError

INTERVAL = dict(interval=2, num_images=16)


@MODELS.register_module()
class ConstantGenerator(RandomImageGenerator):
    """Makes one image of any noise. It could learn, but does not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def synthesize(self, noise):
        return super().synthesize(torch.arange(noise.shape[1]).expand_as(noise).float().sin())


@HOOKS.register_module()
class BreakStatistics(Hook):
    """Puts infinity where only eval mode sees it, so that the loss stays finite."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        norms = (m for m in runner.model.generator.modules() if isinstance(m, torch.nn.BatchNorm2d))
        next(norms).running_mean.fill_(math.inf)


def health_of(cfg, health=INTERVAL, **changes):
    """The warnings that a run logged, and the last metrics."""
    keep_hooks(cfg, 'checkpoint', 'acceleration', 'health')
    cfg.default_hooks.health.update(health)
    runner = run(cfg, **changes)
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    metrics = {
        key.removeprefix('train/health/'): history.current()
        for key, history in runner.message_hub.log_scalars.items()
        if key.startswith('train/health/')
    }
    return [line for line in log.splitlines() if 'WARNING - Round' in line], metrics


@both_tasks
def test_a_healthy_run_is_silent_and_logged(tiny_cfg):
    warnings, metrics = health_of(tiny_cfg, train_cfg__max_iters=12)
    assert warnings == []
    assert metrics.keys() == {'nonfinite', 'pixel_std', 'diversity', 'class_entropy', 'student_change', 'gap'}
    assert not any('loss' in name for name in metrics)
    folder = next(Path(tiny_cfg.work_dir).glob('*/vis_data')).parent
    assert '"health/diversity": 0.9' in (folder / 'vis_data/scalars.json').read_text()
    assert 'health/' not in (folder / f'{folder.name}.log').read_text()  # lines have what people look for


@pytest.mark.parametrize(('factor', 'collapses'), [(1, False), (100, True)])
def test_generator_learning_rate_times_100_collapses(tiny_cfg, factor, collapses):
    """That of generator B. A standardises its images, which keeps them apart with some seeds."""
    warnings, _ = health_of(
        tiny_cfg,
        randomness__seed=2,
        train_cfg__max_iters=60,
        param_scheduler=None,
        # At first B's images are all nearly the same.
        health=dict(INTERVAL, interval=15, min_diversity=0.4),
        model__generator=dict(_delete_=True, type='DCGANGenerator', noise_dim=16, image_size=16, width=8),
        optim_wrapper__generator__optimizer__lr=factor * tiny_cfg.optim_wrapper.generator.optimizer.lr,
    )
    found = [line for line in warnings if 'the generator has collapsed' in line]
    assert len(found) == collapses  # once, though it stays so
    assert all('Lower optim_wrapper.generator.optimizer.lr' in line for line in found)


def test_student_without_learning_rate_does_not_move(tiny_cfg):
    warnings, metrics = health_of(tiny_cfg, train_cfg__max_iters=6, optim_wrapper__student__optimizer__lr=0.0)
    assert metrics['student_change'] == 0
    assert len(warnings) == 1
    assert 'Round 2: the student does not move' in warnings[0]
    assert 'Raise optim_wrapper.student.optimizer.lr' in warnings[0]


def test_nothing_is_judged_before_the_student_learns(tiny_cfg, tmp_path):
    """Neither a student that waits for its start, nor images that are not ready, nor how far the two are apart."""
    strict = dict(INTERVAL, patience=1, min_spread=1e6, min_entropy=2.0, max_gap=0.0)
    phases = [dict(name='generation', end=4), dict(name='imitation', begin=4)]
    changes = dict(train_cfg__phases=phases, health=strict, optim_wrapper__student__optimizer__lr=0.0)
    warnings, metrics = health_of(tiny_cfg, train_cfg__max_iters=4, **changes)
    assert warnings == []
    assert metrics['student_change'] == 0
    warnings, _ = health_of(tiny_cfg, train_cfg__max_iters=6, work_dir=str(tmp_path / 'longer'), **changes)
    assert len(warnings) == 4
    assert all('Round 6: ' in line for line in warnings)


def test_diverging_student_is_named(tiny_cfg):
    warnings, metrics = health_of(tiny_cfg, train_cfg__max_iters=8, optim_wrapper__student__optimizer__lr=10.0)
    assert metrics['gap'] > 10
    assert [line for line in warnings if 'the discrepancy diverges: the student is' in line]


def test_constant_generator_is_named(tiny_cfg):
    warnings, metrics = health_of(
        tiny_cfg,
        model__generator=dict(_delete_=True, type='ConstantGenerator', image_size=16),
        train_cfg__max_iters=8,
        train_cfg__phases=[dict(name='imitation', steps=2)],
    )
    assert metrics['diversity'] == 0
    assert metrics['class_entropy'] < 1
    assert any('Round 6: the generator has collapsed' in line for line in warnings)


def test_values_that_are_not_finite(tiny_cfg):
    keep_hooks(tiny_cfg, 'acceleration', 'health')
    tiny_cfg.default_hooks.update(health=dict(tiny_cfg.default_hooks.health, **INTERVAL), checkpoint=None)
    runner = run(tiny_cfg, train_cfg__max_iters=2, custom_hooks=[dict(type='mmdfad.BreakStatistics')])
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert 'of the pixels and logits on fixed noise are not finite' in log


def test_stop_ends_the_run_before_the_checkpoint(tiny_cfg, tmp_path):
    with pytest.raises(DistillError, match=r'not healthy in round 4: the student does not move.*Set stop=False'):
        health_of(tiny_cfg, health=dict(INTERVAL, interval=4, stop=True), optim_wrapper__student__optimizer__lr=0.0)
    assert [p.name for p in (tmp_path / 'run').glob('iter_*.pth')] == ['iter_2.pth']


def test_checks_change_nothing(tiny_cfg, tmp_path):
    keep_hooks(tiny_cfg, 'acceleration', 'health')
    with_hook = run(tiny_cfg, work_dir=str(tmp_path / 'a'), default_hooks__health__interval=1)
    keep_hooks(tiny_cfg, 'acceleration')
    without = run(tiny_cfg, work_dir=str(tmp_path / 'b'))
    assert_same_state(with_hook.model.state_dict(), without.model.state_dict())


def test_metrics_by_hand(tiny_cfg):
    """The numbers themselves, of networks that are simple enough."""
    distiller = build_runner(tiny_cfg).model
    noise = torch.randn(6, 16)
    distiller.generator.forward = lambda noise: noise[:, :12].view(-1, 3, 2, 2)
    teacher = torch.zeros(6, 5)
    teacher[:3, 0] = teacher[3:, 1] = 100  # half of the images one class, half another
    distiller.teacher.predict = lambda images: teacher
    distiller.student.predict = lambda images: 3 * teacher
    found = measure(distiller, noise)
    pixels = noise[:, :12]
    assert found['pixel_std'] == pytest.approx(float(pixels.std()))
    distance = (pixels - pixels[[5, 0, 1, 2, 3, 4]]).square().mean().sqrt()
    assert found['diversity'] == pytest.approx(float(distance / pixels.std() / 2**0.5))
    assert found['class_entropy'] == pytest.approx(math.log(2) / math.log(5))
    # |3t - t| is 200 once in five; |t - mean| is 80 once and 20 four times
    assert found['gap'] == pytest.approx(200 / 160)
    assert found['nonfinite'] == 0
