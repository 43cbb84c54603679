"""The curves of learning rates before a run."""

import runpy

import pytest
from conftest import ROOT, TINY, build_runner
from in_process import call_here
from mmengine.hooks import Hook

TOOL = 'analysis_tools/vis_scheduler.py'


class Rates(Hook):
    """The learning rates that rounds really have."""

    def __init__(self) -> None:
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        rates = runner.optim_wrapper.get_lr()
        self.found.append([rates[f'{name}.lr'][0] for name in ('student', 'generator')])


COSINE = dict(type='CosineAnnealingLR', by_epoch=False)  # to the last round, which is not named
STEPS = dict(type='MultiStepLR', by_epoch=False, milestones=[3])
WARM_UP = dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=2)


@pytest.mark.parametrize(
    'schedulers',
    [
        None,
        COSINE,
        [WARM_UP, COSINE | dict(begin=2)],
        dict(student=[WARM_UP, COSINE | dict(begin=2, end=5)], generator=STEPS),
        dict(student=COSINE, generator=[]),
    ],
)
def test_rates_are_those_of_the_run(tiny_cfg, schedulers):
    tiny_cfg.param_scheduler = schedulers
    tiny_cfg.optim_wrapper.generator.optimizer = dict(type='Adam')  # its default rate
    tiny_cfg.train_cfg.max_iters = 5
    tool = runpy.run_path(str(ROOT / 'tools' / TOOL))
    drawn = [tool['learning_rates'](tiny_cfg, name) for name in ('student', 'generator')]
    rates = Rates()
    runner = build_runner(tiny_cfg)
    runner.register_hook(rates)
    runner.train()
    for one, found in zip(drawn, zip(*rates.found, strict=True), strict=True):
        assert one == pytest.approx(found)


def test_picture(tmp_path, monkeypatch):
    monkeypatch.setenv('MPLBACKEND', 'agg')
    picture = tmp_path / 'rates.png'
    result = call_here(TOOL, TINY, '--save-path', picture, '--not-show')
    assert result.returncode == 0, result.stderr
    assert picture.stat().st_size > 5000


def test_other_configs_are_refused():
    result = call_here(TOOL, ROOT / 'configs/teachers/lenet5_mnist5k.py', '--not-show')
    assert result.returncode == 1
    assert 'is not a distillation' in result.stderr
