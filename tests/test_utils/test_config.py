import pytest

from mmdfad.utils import DistillError
from mmdfad.utils.config import innermost_dataset, is_noise, read_config


def test_innermost_dataset():
    inner = dict(type='CIFAR10')
    assert innermost_dataset(inner) is inner
    repeated = dict(type='RepeatDataset', dataset=dict(type='ClassBalancedDataset', dataset=inner))
    assert innermost_dataset(repeated) is inner
    joined = dict(type='ConcatDataset', datasets=[repeated, dict(type='Other')])
    assert innermost_dataset(joined) is inner
    assert innermost_dataset(dict(type='Named', dataset='cifar')) == dict(type='Named', dataset='cifar')
    assert innermost_dataset({}) == {}


def test_is_noise():
    assert is_noise(dict(type='mmdfad.NoiseDataset'))
    assert not is_noise(dict(type='CIFAR10'))
    assert not is_noise({})


@pytest.mark.parametrize(
    ('path', 'reason'),
    [
        ('no_such_package::a.py', 'ImportError: package no_such_package is not installed'),
        ('mmpretrain::no/such.py', 'FileNotFoundError'),
        ('no.py', 'FileNotFoundError'),
    ],
)
def test_configs_that_cannot_be_read(path, reason):
    with pytest.raises(DistillError, match=f'cannot read the config {path}: {reason}'):
        read_config(path)
