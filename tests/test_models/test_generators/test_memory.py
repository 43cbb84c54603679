"""The ring memory of images."""

import copy
from collections import Counter

import pytest
import torch
from ranks import CONTEXT

from mmdfad.models.generators import ImageMemory


def numbered(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def numbers(images):
    return images[:, 0, 0, 0].tolist()


def noise_of(count, seed=0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_ring_keeps_the_latest_and_draws_only_what_is_there():
    memory = ImageMemory(capacity=4, channels=1, image_size=(2, 2))
    assert len(memory) == 0
    memory.push(numbered(1, 2, 3, 99), count=3)
    assert len(memory) == 3
    assert set(numbers(memory.draw(noise_of(50)))) == {1, 2, 3}
    memory.push(numbered(4, 5, 6))
    assert len(memory) == 4
    assert memory.pushed == 6
    assert numbers(memory.images) == [5, 6, 3, 4]
    assert set(numbers(memory.draw(noise_of(80)))) == {3, 4, 5, 6}


@pytest.mark.parametrize('before', [0, 1])
def test_a_batch_larger_than_the_memory(before):
    memory = ImageMemory(capacity=3, channels=1, image_size=(2, 2))
    memory.push(numbered(0), count=before)
    memory.push(numbered(1, 2, 3, 4, 5))
    assert sorted(numbers(memory.images)) == [3, 4, 5]


def test_images_are_kept_as_they_are_and_are_part_of_the_state():
    memory = ImageMemory(capacity=2, channels=3, image_size=(4, 4))
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    memory.push(images.clone().requires_grad_())
    other = ImageMemory(capacity=2, channels=3, image_size=(4, 4))
    other.load_state_dict(copy.deepcopy(memory.state_dict()))
    assert torch.equal(other.images, images)
    assert len(other) == 2
    assert not other.images.requires_grad
    memory.push(images.bfloat16())
    assert memory.images.dtype == torch.float32
    assert torch.equal(memory.images, images.bfloat16().float())


def test_draws_are_uniform_and_belong_to_the_noise():
    memory = ImageMemory(capacity=5, channels=1, image_size=(2, 2))
    memory.push(numbered(0, 1, 2, 3, 4))
    noise = noise_of(5000)
    drawn = numbers(memory.draw(noise))
    assert all(abs(count - 1000) < 150 for count in Counter(drawn).values())  # five standard deviations
    assert numbers(memory.draw(noise[:7])) + numbers(memory.draw(noise[7:9])) == drawn[:9]


def test_more_and_fewer_draws_than_noise():
    memory = ImageMemory(capacity=50, channels=1, image_size=(2, 2))
    memory.push(numbered(*range(50)))
    noise = noise_of(4)
    drawn = numbers(memory.draw(noise, count=11))
    assert drawn[:4] == numbers(memory.draw(noise))
    assert drawn[:3] == numbers(memory.draw(noise, count=3))
    assert len(drawn) == 11
    assert len(set(drawn)) > 6  # not the same four again


def push_as_a_rank(rank, folder):
    torch.distributed.init_process_group('gloo', f'file://{folder}/meeting', rank=rank, world_size=2)
    memory = ImageMemory(capacity=8, channels=1, image_size=(2, 2))
    memory.push(numbered(0 + rank, 2 + rank, 4 + rank), count=3)  # of 0 to 5, in turns
    memory.push(numbered(10 + rank, 12 + rank))
    memory.push(numbered(*([20, 22] if rank == 0 else [21])))  # as many as all ranks have
    torch.save(memory.state_dict(), f'{folder}/rank_{rank}.pth')


def test_ranks_keep_the_images_of_all(tmp_path):
    processes = [CONTEXT.Process(target=push_as_a_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    states = [torch.load(tmp_path / f'rank_{rank}.pth') for rank in range(2)]
    for state in states:
        assert state['pushed'] == 9
        assert numbers(state['images']) == [21, 1, 2, 10, 11, 12, 13, 20]
