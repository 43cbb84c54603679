import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmdfad.datasets import NoiseDataset, NoiseSampler
from mmdfad.utils import DistillError


@pytest.mark.parametrize('noise_dim', [1, 3, 100, 256])
def test_noise_is_a_function_of_seed_and_index(noise_dim):
    noise = NoiseDataset(noise_dim, seed=7)
    batch = noise.__getitems__([5, 6, 7, 8])
    assert batch.shape == (4, noise_dim)
    assert batch.dtype == torch.float32
    # It is the same vector alone, strided, backwards and from far away.
    assert torch.equal(noise[6], batch[1])
    assert torch.equal(noise.__getitems__([8, 6]), batch[[3, 1]])
    far = noise.__getitems__([2**40, 6])
    assert torch.equal(far[1], batch[1])
    assert torch.equal(far[0], NoiseDataset(noise_dim, seed=7)[2**40])
    assert not torch.equal(far[0], batch[1])
    assert not torch.equal(NoiseDataset(noise_dim, seed=8)[6], batch[1])


def test_noise_is_standard_normal():
    noise = NoiseDataset(100, seed=0).__getitems__(range(10_000)).double()
    moments = [(noise**k).mean().item() for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.02)
    assert (noise.T @ noise / len(noise) - torch.eye(100)).abs().max() < 0.06
    assert (noise[:-1] * noise[1:]).mean().abs() < 0.005
    assert 4 < noise.abs().max() < 7


@pytest.mark.parametrize('world_size', [2, 4])
def test_ranks_share_the_stream_without_overlap(monkeypatch, world_size):
    dataset = NoiseDataset(8, seed=1)

    def batches(rank, ranks, batch_size, count):
        monkeypatch.setattr('mmdfad.datasets.noise.get_dist_info', lambda: (rank, ranks))
        loader = DataLoader(dataset, batch_size, sampler=NoiseSampler(dataset), collate_fn=pseudo_collate)
        return [batch for batch, _ in zip(loader, range(count), strict=False)]

    alone = batches(0, 1, 8, 3)
    together = [batches(rank, world_size, 8 // world_size, 3) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        # Interleaved by rank, they are the same batch.
        merged = torch.stack([together[rank][step] for rank in range(world_size)], dim=1).flatten(0, 1)
        assert torch.equal(merged, batch)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_skip_continues_where_the_stream_was_left(num_workers):
    def batches(skip, count):
        dataset = NoiseDataset(8, seed=1)
        sampler = NoiseSampler(dataset)
        sampler.skip(skip)
        loader = DataLoader(dataset, 4, sampler=sampler, collate_fn=pseudo_collate, num_workers=num_workers)
        return [batch for batch, _ in zip(loader, range(count), strict=False)]

    assert torch.equal(torch.cat(batches(0, 5)[2:]), torch.cat(batches(8, 3)))


def test_finite_noise_ends():
    dataset = NoiseDataset(4, length=10)
    loader = DataLoader(dataset, 4, sampler=NoiseSampler(dataset), collate_fn=pseudo_collate)
    assert [len(batch) for batch in loader] == [4, 4, 2]
    assert len(loader) == 3


@pytest.mark.parametrize('arguments', [dict(noise_dim=0), dict(noise_dim=2.5), dict(noise_dim=4, length=-1)])
def test_bad_sizes_are_named(arguments):
    with pytest.raises(DistillError, match='must be a whole number, 1 or more, but found'):
        NoiseDataset(**arguments)


def test_length_and_seed_come_from_the_run_unless_they_are_given():
    noise = NoiseDataset()
    with pytest.raises(DistillError, match='the noise has no length yet: set noise_dim of NoiseDataset'):
        noise[0]
    noise.complete(8, 3)
    assert torch.equal(noise[5], NoiseDataset(8, seed=3)[5])
    given = NoiseDataset(4, seed=0)
    given.complete(8, 3)
    assert torch.equal(given[5], NoiseDataset(4, seed=0)[5])
