"""Fixed noise to look at a run with."""

from mmengine.dist import is_main_process
from torch import Tensor

from mmdfad.datasets import NoiseDataset
from mmdfad.models.base_distiller import BaseDistiller

# Noise that no training run with a seed of its own draws from.
PROBE_SEED = 2**63 - 1


def probe_noise(distiller: BaseDistiller, count: int) -> Tensor:
    """The same noise [count, noise_dim] in every run."""
    return NoiseDataset(distiller.generator.noise_dim, PROBE_SEED).__getitems__(range(count))


def must_probe(distiller: BaseDistiller) -> bool:
    """Whether this rank has to run the networks when the first rank probes them.

    The first rank always has to; the others only if the teacher is split over the ranks.
    """
    return is_main_process() or distiller.teacher.shard
