"""Configs of the first version end with one message that says what to write instead."""

import inspect
import re
import runpy
import sys

import pytest
from conftest import ROOT, TINY, run

from mmdfad.engine import AccelerationHook, AdversarialDistillLoop
from mmdfad.models import AdversarialDistiller
from mmdfad.models.build import NETWORK_KEYS
from mmdfad.utils import DistillError
from mmdfad.utils.migration import REMOVED, refuse_keys

KEYS = [(where, key) for where, keys in REMOVED.items() for key in keys]
CONSTRUCTOR = 'optim_wrapper.constructor'


def train(monkeypatch, tmp_path, *options):
    """Run tools/train.py here; the checks come before anything that takes time."""
    arguments = [str(TINY), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]
    monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
    with pytest.raises(SystemExit) as info:
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert not (tmp_path / 'run').exists()
    return str(info.value)


@pytest.mark.parametrize(('where', 'key'), KEYS)
def test_old_keys(monkeypatch, tmp_path, where, key):
    message = train(monkeypatch, tmp_path, f'{where}.{key}=1')
    new = REMOVED[where][key]
    assert message == f'mmdfad: error: {where}.{key} is a setting of an earlier version; write {new}'


@pytest.mark.parametrize('prefix', ['', 'mmdfad.'])
def test_old_name_of_the_constructor(monkeypatch, tmp_path, prefix):
    message = train(monkeypatch, tmp_path, f'{CONSTRUCTOR}={prefix}PlayerOptimWrapperConstructor')
    assert message.startswith(f"mmdfad: error: {CONSTRUCTOR}='{prefix}PlayerOptimWrapperConstructor' is now called ")
    assert message.endswith("'mmdfad.DistillOptimWrapperConstructor'")


def test_all_old_settings_in_one_message(monkeypatch, tmp_path):
    options = ['model.replay.capacity=9', 'train_cfg.imitation_steps=3', f'{CONSTRUCTOR}=PlayerOptimWrapperConstructor']
    lines = train(monkeypatch, tmp_path, *options).splitlines()
    assert [line.removeprefix('mmdfad: error: ').split()[0].split('=')[0] for line in lines] == [
        'model.replay',
        'train_cfg.imitation_steps',
        CONSTRUCTOR,
    ]


@pytest.mark.parametrize('where', ['model', 'train_cfg'])
def test_what_a_message_says_to_write_exists(where):
    """The keys in the new settings are arguments of the classes that take them."""
    takers = {
        'model': AdversarialDistiller,
        'train_cfg': AdversarialDistillLoop,
        'default_hooks.acceleration': AccelerationHook,
    }
    for new in REMOVED[where].values():
        for place, cls in takers.items():
            for key in re.findall(rf'(?<![\w.]){re.escape(place)}\.(\w+)', new):
                known = set(inspect.signature(cls).parameters)
                assert key in known, new
    assert 'train_command' in NETWORK_KEYS


def test_the_distiller_itself_refuses_old_keys():
    """Also where no tool has read the config."""
    with pytest.raises(DistillError, match=r'model.replay is a setting of an earlier version; write model.generator='):
        refuse_keys('model', dict(replay=1), AdversarialDistiller)
    with pytest.raises(DistillError, match=r'model.imitaton is unknown; did you mean imitation'):
        refuse_keys('model', dict(imitaton=1), AdversarialDistiller)


def test_custom_hooks_work_beside_the_default_ones(tiny_cfg, tmp_path):
    """Configs used to list mmdfad's hooks there. Hooks that are listed twice do not change the run."""
    plain = run(tiny_cfg, train_cfg__max_iters=2, work_dir=str(tmp_path / 'plain'))
    tiny_cfg.custom_hooks = [
        dict(type='mmdfad.SyntheticImageHook', interval=1),
        dict(type='mmdfad.TrainingHealthHook', interval=1),
        dict(type='mmdfad.ExportStudentHook'),
        dict(type='mmdfad.ReportHook'),
        dict(type='mmdfad.PreemptionHook'),
    ]
    listed = run(tiny_cfg, train_cfg__max_iters=2)
    for name, value in plain.model.state_dict().items():
        assert value.equal(listed.model.state_dict()[name]), name
    assert (tmp_path / 'run/student.pth').exists()
    assert len(list((tmp_path / 'run').rglob('synthetic_*.png'))) == 2
