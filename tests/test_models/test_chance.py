"""Random numbers that belong to an image."""

import struct

import pytest
import torch

from mmdfad.models.chance import BOXES, LABELS, MEMORY, uniform

PURPOSES = range(BOXES + 1)  # the last one
MASK = 2**64 - 1


def noise_of(count: int, noise_dim: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, noise_dim, generator=torch.Generator().manual_seed(seed))


def splitmix64(seed: int, number: int) -> float:
    """A number of the stream of a seed, in [0, 1), by Python's whole numbers."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@pytest.mark.parametrize('purpose', PURPOSES)
def test_splitmix64_of_the_bits_of_the_noise(purpose):
    noise = noise_of(50)
    expected = []
    for row in noise.tolist():
        first, last = struct.unpack('<2i', struct.pack('<2f', row[0], row[-1]))
        seed = (first << 32) + last
        expected.append([splitmix64(seed, purpose * 2**20 + i) for i in range(3)])
    draws = uniform(noise, purpose, 3)
    assert draws.dtype == torch.float64
    assert draws.tolist() == expected


def test_known_values():
    """A change would make other labels and other draws of the images of a run."""
    noise = torch.tensor([[0.5, 7.0, -1.25], [0.5, 9.0, -1.25], [0.25, 7.0, -1.25]])
    known = [0.8767536854311674, 0.8767536854311674, 0.6505498439074792]  # by the first and the last number alone
    assert uniform(noise, LABELS)[:, 0].tolist() == known


@pytest.mark.parametrize('purpose', PURPOSES)
def test_numbers_are_uniform(purpose):
    draws = uniform(noise_of(20_000), purpose, 2)
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        counts = torch.histc(column, 20, 0, 1)
        # 19 degrees of freedom: above 43.8 in one of 1,000 cases.
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 43.8


def test_purposes_and_counts_are_independent():
    noise = noise_of(20_000)
    columns = torch.cat([uniform(noise, purpose, 3) for purpose in PURPOSES], dim=1)
    correlations = torch.corrcoef(columns.T) - torch.eye(columns.shape[1], dtype=torch.float64)
    assert correlations.abs().max() < 4 / 20_000**0.5
    # Nor do they follow the noise that they come from.
    mixed = torch.corrcoef(torch.cat([columns, noise[:, [0, -1]].double()], dim=1).T)
    assert mixed[:-2, -2:].abs().max() < 4 / 20_000**0.5


def test_the_batch_around_an_image_does_not_matter():
    noise = noise_of(12)
    whole = uniform(noise, MEMORY, 2)
    assert torch.equal(torch.cat([uniform(part, MEMORY, 2) for part in noise.split(5)]), whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(uniform(noise[order], MEMORY, 2), whole[order])
    assert torch.equal(uniform(noise, MEMORY, 7)[:, :2], whole)
    assert torch.equal(uniform(noise.double().requires_grad_(), MEMORY, 2), whole)
    assert len(set(whole.flatten().tolist())) == 24
