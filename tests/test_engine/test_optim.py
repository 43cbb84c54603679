import pytest
import torch
from conftest import build_runner, run

from mmdfad.engine import CPUAmpOptimWrapper, PlayerOptimWrapperConstructor
from mmdfad.utils import DistillError


def test_each_player_has_its_optimizer_and_weight_decay_rules(tiny_cfg):
    runner = build_runner(
        tiny_cfg,
        optim_wrapper__student__paramwise_cfg=dict(norm_decay_mult=0.0),
        optim_wrapper__student__clip_grad=dict(max_norm=1.0),
    )
    optim = runner.build_optim_wrapper(runner.optim_wrapper)
    assert isinstance(optim['student'].optimizer, torch.optim.SGD)
    assert isinstance(optim['generator'].optimizer, torch.optim.Adam)
    assert optim['student'].clip_grad_kwargs == dict(max_norm=1.0)
    norms = {
        id(p) for m in runner.model.student.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()
    }
    for group in optim['student'].param_groups:
        decayed = group['weight_decay'] > 0
        assert all((id(p) in norms) != decayed for p in group['params'])


def test_schedulers_are_per_player(tiny_cfg):
    runner = run(tiny_cfg, train_cfg__max_iters=2)
    rates = runner.optim_wrapper.get_lr()
    assert rates['student.lr'] == [pytest.approx(0.01)]  # warmed up
    assert rates['generator.lr'][0] < 1e-3  # decayed


def test_cpu_amp_runs_the_forward_in_bf16(tiny_cfg):
    seen = []
    runner = build_runner(
        tiny_cfg,
        optim_wrapper__student__type='mmdfad.CPUAmpOptimWrapper',
        optim_wrapper__generator__type='mmdfad.CPUAmpOptimWrapper',
        train_cfg__max_iters=1,
    )
    for part in (runner.model.generator.decoder[2], runner.model.student_player.model.backbone.conv1):
        part.register_forward_hook(
            lambda module, inputs, output: (module.training and seen.append(output.dtype)) or None
        )
    runner.train()
    assert set(seen) == {torch.bfloat16}
    assert isinstance(runner.optim_wrapper['student'], CPUAmpOptimWrapper)


@pytest.mark.parametrize(
    'cfg', [dict(optimizer=dict(type='SGD', lr=1)), dict(student=dict()), dict(student=dict(), generator=dict(), x=1)]
)
def test_missing_and_unknown_players_are_named(cfg):
    with pytest.raises(DistillError, match=r"optim_wrapper must have the keys \['student', 'generator'\].*found"):
        PlayerOptimWrapperConstructor(cfg)
