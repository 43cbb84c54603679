import time

import pytest
import torch

from mmdfad.engine.stopwatch import Stopwatch


def test_seconds_add_up_by_part():
    watch = Stopwatch(torch.device('cpu'))
    for part, seconds in (('generation', 0.02), ('imitation', 0.05), ('generation', 0.02)):
        with watch.timing(part):
            time.sleep(seconds)
    found = watch.read()
    assert 0.04 <= found['generation'] < found['total']
    assert 0.05 <= found['imitation'] < found['total']
    assert found['generation'] + found['imitation'] <= found['total']
    assert watch.scalars().keys() == {'seconds/generation', 'seconds/imitation', 'seconds/total'}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_accelerators_are_not_waited_for():
    watch = Stopwatch(torch.device('cuda'))
    values = torch.randn(4096, 4096, device='cuda')
    for _ in range(2):
        with watch.timing('imitation'):
            for _ in range(20):
                values = (values @ values).clamp(-1, 1)
    assert 0 < watch.read()['imitation'] < watch.read()['total']
