import math

import pytest
import torch
from conftest import build_runner, keep_hooks
from mmengine.hooks import Hook
from mmengine.logging import MessageHub

from mmdfad.engine import round_log
from mmdfad.engine.round_log import RoundLog
from mmdfad.utils import DistillError


@pytest.fixture
def log(request):
    return RoundLog(MessageHub.get_instance(request.node.name), 'work')


def logged(log, key):
    return log.message_hub.get_scalar(f'train/{key}').data[0].tolist()


class BreakNetwork(Hook):
    """Makes a network diverge in a round."""

    def __init__(self, round_index, part='student'):
        self.round_index, self.part = round_index, part

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.round_index:
            with torch.no_grad():
                next(getattr(runner.model, self.part).parameters()).fill_(math.nan)


class CountLogged(Hook):
    """Keeps for how many rounds the losses are in the log after each round."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.counts = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        losses = runner.message_hub.log_scalars.get('train/imitation_loss')
        self.counts.append(0 if losses is None else len(losses.data[0]))


def test_values_are_read_together(log):
    log.add(1, dict(imitation_loss=torch.tensor(2.0), agreement=torch.tensor(0.5)))
    log.add(2, dict(imitation_loss=torch.tensor(1.0, dtype=torch.bfloat16), generation_loss=torch.tensor(-3.0)))
    assert log.message_hub.log_scalars == {}
    log.flush()
    assert logged(log, 'imitation_loss') == [2, 1]
    assert logged(log, 'agreement') == [0.5]
    assert logged(log, 'generation_loss') == [-3]
    log.flush()
    assert logged(log, 'imitation_loss') == [2, 1]


def test_values_do_not_wait_for_ever(log, monkeypatch):
    monkeypatch.setattr(round_log, '_LONGEST', 3)
    for number in (1, 2, 3, 4):
        log.add(number, dict(agreement=torch.tensor(float(number))))
    assert logged(log, 'agreement') == [1, 2, 3]


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        (
            'imitation_loss',
            math.nan,
            'imitation_loss is nan in round 7: the student has diverged. There is no checkpoint yet',
        ),
        ('generation_loss', -math.inf, 'generation_loss is -inf in round 7: the generator has diverged'),
        (
            'imitation_loss',
            math.inf,
            r'Lower optim_wrapper.student.optimizer.lr, warm it up, or set .*student.clip_grad',
        ),
    ],
)
def test_losses_that_are_not_finite_are_named(log, key, value, message):
    log.add(6, {key: torch.tensor(1.0)})
    log.add(7, {key: torch.tensor(value)})
    with pytest.raises(DistillError, match=message):
        log.flush()
    assert logged(log, key) == [1]


def test_other_values_may_be_anything(log):
    log.add(1, dict(generation_activation=torch.tensor(math.inf)))
    log.flush()
    assert logged(log, 'generation_activation') == [math.inf]


# In a run.


@pytest.mark.parametrize(('interval', 'expected'), [(1, [1, 2, 3, 4, 5]), (2, [0, 2, 2, 4, 4])])
def test_a_run_reads_losses_when_it_logs_them(tiny_cfg, interval, expected):
    """Reading one waits for the device."""
    keep_hooks(tiny_cfg, 'acceleration')
    runner = build_runner(tiny_cfg, train_cfg__max_iters=5, default_hooks__logger__interval=interval)
    runner.register_hook(counter := CountLogged())
    runner.train()
    assert counter.counts == expected
    assert len(runner.message_hub.get_scalar('train/imitation_loss').data[0]) == 5  # those of the last rounds, too


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        ('student', r'imitation_loss is nan in round 4: the student has diverged.*is good'),
        # The student learns from broken images before the generator is updated.
        ('generator', r'imitation_loss is nan in round 4'),
    ],
)
def test_a_run_ends_in_the_round_that_diverges(tiny_cfg, part, message):
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration')
    runner = build_runner(tiny_cfg)
    runner.register_hook(BreakNetwork(3, part))
    with pytest.raises(DistillError, match=message):
        runner.train()
    # The checkpoint of round 2 is still there, and good.
    build_runner(tiny_cfg, resume=True, train_cfg__max_iters=3).train()


def test_a_generator_that_diverges_is_named(tiny_cfg):
    runner = build_runner(tiny_cfg)
    step = runner.model.generation_step
    runner.model.generation_step = lambda *args: {k: v * math.inf for k, v in step(*args).items()}
    with pytest.raises(DistillError, match=r'generation_loss is -inf in round 1: the generator has diverged'):
        runner.train()
