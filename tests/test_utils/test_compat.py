"""OpenMMLab's own packages and the maintained ones work alike. These tests run with either."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.logging import HistoryBuffer
from torch import nn
from torch.utils.data import DataLoader

from mmdfad.datasets import NoiseDataset, NoiseSampler
from mmdfad.utils import DistillError, compat
from mmdfad.utils.config import read_config

# Of each pair one is installed, whichever it is.
PAIRS = {'mmengine': 'onedl-mmengine', 'mmcv-lite': 'onedl-mmcv', 'mmsegmentation': 'onedl-mmsegmentation'}


def import_beside(folder, *distributions):
    """Import mmdfad in a process that finds some more distributions installed."""
    for name in distributions:
        info = folder / f'{name.replace("-", "_")}-1.0.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    env = {**os.environ, 'PYTHONPATH': f'{folder}:{ROOT}'}
    return subprocess.run([sys.executable, '-c', 'import mmdfad'], capture_output=True, text=True, env=env)


@pytest.mark.parametrize('pair', PAIRS.items())
def test_two_kinds_of_a_package_are_refused(tmp_path, pair):
    result = import_beside(tmp_path, *pair)
    assert result.returncode == 1
    message = result.stderr[result.stderr.rindex('ImportError:') :]
    assert f'{pair[1]} and {pair[0]} are both installed, in the same folder' in message
    uninstall, install = (line.split() for line in message.splitlines()[1:3])
    everything = [name for names in map(compat.installed, compat.DISTRIBUTIONS) for name in names]
    assert uninstall[:3] == ['pip', 'uninstall', '-y']
    assert set(uninstall[3:]) == {*everything, *pair}
    assert install == compat.FORK_LINE.split()


def test_one_kind_with_other_packages_is_not_refused(tmp_path):
    result = import_beside(tmp_path, 'mmengine-extra', 'mmdet')
    assert result.returncode == 0, result.stderr


def test_hints_name_the_kind_that_is_installed():
    named = [word.partition('==')[0] for word in compat.INSTALL_LINE.split()]
    assert {compat.installed(name)[0] for name in compat.DISTRIBUTIONS} <= set(named)
    assert compat.MMCV in compat.OPS_LINE.split()


# Configs.


class WithoutPkgResources:
    """Newer versions of setuptools lack it."""

    def find_spec(self, name, path=None, target=None):
        if name == 'pkg_resources':
            raise ModuleNotFoundError("No module named 'pkg_resources'")


@pytest.fixture
def _new_setuptools(monkeypatch):
    monkeypatch.setattr(sys, 'meta_path', [WithoutPkgResources(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, 'pkg_resources', raising=False)


@pytest.mark.usefixtures('_new_setuptools')
def test_configs_of_packages_need_no_pkg_resources():
    assert read_config('mmpretrain::_base_/default_runtime.py').default_scope == 'mmpretrain'
    assert read_config('mmdfad::_base_/default_runtime.py').default_scope == 'mmdfad'


@pytest.mark.usefixtures('_new_setuptools')
def test_configs_that_inherit_from_packages_say_what_is_missing(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmpretrain::_base_/default_runtime.py'")
    if not compat.UPSTREAM:
        assert read_config(str(path)).default_scope == 'mmpretrain'
        return
    with pytest.raises(DistillError, match=r"No module named 'pkg_resources'.*pip install 'setuptools<81'"):
        read_config(str(path))


@pytest.mark.parametrize(
    ('error', 'remedy'),
    [
        (ModuleNotFoundError("No module named 'pkg_resources'"), "pip install 'setuptools<81'"),
        (AssertionError('MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4'), "'mmcv<2.2'"),
    ],
)
def test_known_errors_come_with_their_remedy(error, remedy):
    assert str(error) in compat.explain(error)
    assert remedy in compat.explain(error)


def test_other_errors_keep_their_text():
    assert compat.explain(ValueError('no module of mine')) == 'no module of mine'


# mmseg.


@pytest.mark.parametrize('missing', [['mmcv._ext'], ['ftfy', 'regex', 'mmcv._ext']])
def test_mmseg_says_once_what_it_lacks(monkeypatch, missing):
    monkeypatch.setattr(compat, 'installed', lambda name: ['mmsegmentation'])
    monkeypatch.setattr(compat, 'is_importable', lambda module: module not in missing)
    with pytest.raises(ImportError) as error:
        compat.check_package('mmseg')
    first, *lines = str(error.value).splitlines()
    assert f'needs {", ".join(missing)} for every model' in first
    assert [line.split()[1] for line in lines] == ['install', 'uninstall', 'download']


def test_the_maintained_mmseg_needs_no_ops(monkeypatch):
    monkeypatch.setattr(compat, 'installed', lambda name: ['onedl-mmsegmentation'])
    monkeypatch.setattr(compat, 'is_importable', lambda module: False)
    compat.check_package('mmseg')


@pytest.mark.parametrize('name', ['to_rgb', '_channel_conversion', 'channel_conversion'])
def test_all_preprocessors_tell_their_order_of_channels(name):
    preprocessor = nn.Identity()
    assert not compat.reverses_channels(preprocessor)
    setattr(preprocessor, name, False)
    assert not compat.reverses_channels(preprocessor)
    setattr(preprocessor, name, True)
    assert compat.reverses_channels(preprocessor)
    assert not compat.reverses_channels(None)


# Checkpoints.


def save_log(path):
    log = HistoryBuffer()
    for value in (1.0, 2.0, 6.0):
        log.update(value)
    torch.save(dict(log=log, best=np.float64(0.5), rounds=np.array([1, 2, 3])), path)


def test_logged_values_are_read_without_code(tmp_path):
    save_log(tmp_path / 'log.pth')
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        torch.load(tmp_path / 'log.pth', weights_only=True)
    with compat.allow_logged_values():
        content = torch.load(tmp_path / 'log.pth', weights_only=True)
    assert content['log'].statistics('mean') == 3.0
    assert content['log'].statistics('max') == 6.0
    assert content['best'] == 0.5
    assert content['rounds'].tolist() == [1, 2, 3]


class Reach:
    """Gets an attribute of a class when it is unpickled."""

    def __init__(self, owner, name):
        self.reached = (owner, name)

    def __reduce__(self):
        return getattr, self.reached


@pytest.mark.parametrize('reached', [(HistoryBuffer, '__init__'), (np.ndarray, 'tofile')])
def test_logged_values_reach_nothing_else(tmp_path, reached):
    torch.save(dict(bad=Reach(*reached)), tmp_path / 'bad.pth')
    with compat.allow_logged_values(), pytest.raises(pickle.UnpicklingError, match='getattr'):
        torch.load(tmp_path / 'bad.pth', weights_only=True)


# Dataloaders.


@pytest.mark.parametrize('shuffle', [True, False])
def test_infinite_samplers_start_after_some_samples(monkeypatch, shuffle):
    monkeypatch.delattr(InfiniteSampler, 'skip', raising=False)

    def first(count, skipped):
        sampler = InfiniteSampler(range(5), shuffle=shuffle, seed=3)
        assert compat.skip_samples(sampler, skipped)
        indices = iter(sampler)
        return [next(indices) for _ in range(count)]

    assert first(9, 7) == first(16, 0)[7:]


def test_other_samplers_cannot_skip():
    assert not compat.skip_samples(DefaultSampler(range(5), shuffle=False), 2)
    sampler = NoiseSampler(NoiseDataset(4, length=8))
    assert compat.skip_samples(sampler, 5)
    assert [*sampler] == [5, 6, 7]


def test_workers_see_the_complete_dataset():
    """Also where mmengine has started them before."""
    dataset = NoiseDataset()
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        sampler=NoiseSampler(dataset),
        collate_fn=pseudo_collate,
    )
    iter(loader)
    dataset.complete(4, seed=5)
    assert torch.equal(next(compat.new_iterator(loader)), NoiseDataset(4, seed=5).__getitems__([0, 1]))


def test_a_run_with_persistent_workers(tiny_cfg):
    whole = run(tiny_cfg, train_dataloader__num_workers=1, train_dataloader__persistent_workers=True)
    assert whole.train_loop.iter == 6
