import copy

import pytest
import torch

from mmdfad.models import ReplayPool
from mmdfad.utils import DistillError


def numbered(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_ring_keeps_the_latest_and_samples_only_what_is_there():
    pool = ReplayPool(capacity=4, batch_size=2, push=3)
    pool.allocate(numbered(0))
    assert pool.sample() is None
    pool.push(numbered(1, 2, 3, 99))  # of which three are kept
    assert {int(x) for _ in range(50) for x in pool.sample()[:, 0, 0, 0]} == {1, 2, 3}
    pool.push(numbered(4, 5, 6))
    assert sorted(pool.images[:, 0, 0, 0].tolist()) == [3, 4, 5, 6]
    assert {int(x) for _ in range(80) for x in pool.sample()[:, 0, 0, 0]} == {3, 4, 5, 6}


def test_pool_is_lossless_and_part_of_the_state():
    pool = ReplayPool(capacity=2, batch_size=1, push=2)
    images = torch.randn(2, 3, 4, 4)
    pool.allocate(images)
    pool.push(images)
    other = copy.deepcopy(pool)
    other.images.zero_()
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other.images, images)
    assert other.pushed == 2


@pytest.mark.parametrize('key', ['capacity', 'batch_size', 'push'])
def test_bad_sizes_are_named(key):
    with pytest.raises(DistillError, match=rf'model.replay.{key} must be a positive whole number, but found 0'):
        ReplayPool(**{**dict(capacity=4, batch_size=2, push=1), key: 0})
