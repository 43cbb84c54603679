"""What the processes of test_tools/test_stop.py cannot show."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import assert_same_run, assert_same_state, build_runner, keep_hooks, run
from mmengine.hooks import Hook

from mmdfad.engine.hooks.preemption import resume_command


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ('c.py', 'tools/train.py c.py --resume=auto'),
        ('--work-dir d c.py --resume old.pth', 'tools/train.py --work-dir d c.py --resume old.pth --resume=auto'),
        ('c.py --resume=auto', 'tools/train.py c.py --resume=auto'),
        ('c.py --cfg-options a=1', 'tools/train.py c.py --cfg-options a=1 --resume=auto'),
    ],
)
def test_resume_command(monkeypatch, arguments, expected):
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', *arguments.split()])
    assert resume_command().split(' ', 1)[1] == expected
    # what it says is what the tool understands
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / 'tools')
    monkeypatch.setattr(sys, 'argv', resume_command().split()[1:])
    import train

    args = train.parse_args()
    assert (args.resume, args.config) == ('auto', 'c.py')


def test_resume_command_of_torchrun_and_of_other_programs(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'c.py'])
    for name, value in dict(TORCHELASTIC_RUN_ID='x', GROUP_WORLD_SIZE='2', LOCAL_WORLD_SIZE='8').items():
        monkeypatch.setenv(name, value)
    assert resume_command() == 'torchrun --nnodes=2 --nproc_per_node=8 tools/train.py c.py --resume=auto'
    monkeypatch.setattr(sys, 'argv', ['mine.py'])
    assert resume_command() == 'resume=True in the config'


class AskInValidation(Hook):
    """Sends a signal in the first batch of a validation."""

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        seen.append((runner.iter, batch_idx))
        if runner.iter == 2 and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


seen = []


@pytest.mark.parametrize('intervals', [dict(val_interval=2), dict(val_interval=99, dynamic_intervals=[(2, 2)])])
def test_signal_in_a_validation_ends_it_and_the_resumed_run_makes_up_for_it(tiny_cfg, tmp_path, intervals):
    """The checkpoint has the student's own weights, although averaged ones were being validated."""
    seen.clear()
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', 'preemption')
    noise = dict(type='mmdfad.NoiseDataset', seed=1, length=20)
    tiny_cfg.update(
        custom_hooks=[dict(type='EMAHook', momentum=0.1, update_buffers=True)],
        val_dataloader=dict(batch_size=4, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
    )
    tiny_cfg.train_cfg.update(max_iters=4, **intervals)
    whole = run(tiny_cfg, work_dir=str(tmp_path / 'whole'))
    stopped = build_runner(tiny_cfg)
    stopped.register_hook(AskInValidation())
    stopped.train()
    assert seen == [(2, 0)]
    assert stopped.iter == 2
    assert json.loads((tmp_path / 'run/run.json').read_text())['validated'] == 0
    states = [torch.load(tmp_path / folder / 'iter_2.pth', weights_only=False) for folder in ('whole', 'run')]
    assert_same_state(*(dict(state['state_dict']) for state in states))
    assert_same_state(*(dict(state['ema_state_dict']) for state in states))

    resumed = run(tiny_cfg, resume=True, load_from=str(tmp_path / 'run/iter_2.pth'))
    assert_same_run(resumed, whole)
    scalars = max((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    validated = [
        json.loads(line)['step'] for line in scalars if '"agreement"' in line and '"imitation_loss"' not in line
    ]
    assert validated == [2, 4]
    again = run(tiny_cfg, resume=True, load_from=str(tmp_path / 'run/iter_4.pth'))
    assert again.iter == 4
    log = max((tmp_path / 'run').glob('*/*.log')).read_text()
    _, finished, rest = log.partition('This run has finished its 4 rounds. Raise train_cfg.max_iters to continue it')
    assert finished
    assert 'Iter(val)' not in rest
