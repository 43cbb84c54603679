"""The "dataset" of data-free distillation."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mmdfad.registry import DATA_SAMPLERS, DATASETS
from mmdfad.utils import DistillError, require_positive

# Seeds of noise that no run with a seed of its own draws from: for looking at a run, for probe images, which no student
# trains on, and for a start.
LOOK_SEED, PROBE_SEED, START_SEED = (2**63 - n for n in (1, 2, 3))
# Philox gives 4 words of 64 bits at each counter value.
_WORDS_PER_COUNT = 4


@DATASETS.register_module()
class NoiseDataset(Dataset):
    """Standard normal noise, a pure function of (seed, index).

    Nothing is stored: a counter-based generator (Philox, Salmon et al., SC 2011) gives the numbers of an index. So a
    resumed run continues in the same stream, and ranks that see disjoint indices never share noise.

    Args:
        noise_dim (int, optional): Length of a noise vector. Defaults to that of the run's generator.
        seed (int, optional): Seed of the noise. Defaults to that of the run (``randomness.seed``).
        length (int): Vectors in the dataset. Defaults to more than any run needs; validation takes a few.
    """

    # mmengine looks for the classes of a dataset here. Noise has no classes.
    metainfo: dict = {}

    def __init__(self, noise_dim: int | None = None, seed: int | None = None, length: int = 2**48) -> None:
        require_positive(
            '{} of NoiseDataset', length=length, **({} if noise_dim is None else dict(noise_dim=noise_dim))
        )
        self.noise_dim = noise_dim
        self.seed = seed
        self.length = length

    def complete(self, noise_dim: int, seed: int) -> None:
        """Set what was not given."""
        self.noise_dim = noise_dim if self.noise_dim is None else self.noise_dim
        self.seed = seed if self.seed is None else self.seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """The noise vector [noise_dim] of an index."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """The noise vectors [len(indices), noise_dim] of a whole batch, made at once."""
        if self.noise_dim is None:
            raise DistillError(
                'the noise has no length yet: set noise_dim of NoiseDataset, or use '
                "train_cfg.type='mmdfad.AdversarialDistillLoop', which takes it from the generator"
            )
        counts = -(-self.noise_dim // _WORDS_PER_COUNT)
        indices = np.asarray(indices, dtype=np.int64)
        first, span = int(indices.min()), int(np.ptp(indices)) + 1
        if span > 64 * len(indices):  # a batch picked from all over the stream, rather than a slice of it
            return torch.cat([NoiseDataset.__getitems__(self, [i]) for i in indices])
        # Key and counter are two words each of their own; a seed never runs into another's stream.
        words = np.random.Philox(key=self.seed or 0, counter=first * counts).random_raw(
            span * counts * _WORDS_PER_COUNT
        )
        words = words.reshape(span, -1)[indices - first, : self.noise_dim]
        # 53 random bits to the middle of their interval in (0, 1), and through the inverse normal distribution.
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return torch.special.ndtri(torch.from_numpy(uniform)).float()


@DATA_SAMPLERS.register_module()
class NoiseSampler(Sampler):
    """Counts through the noise: rank r of R takes indices r, r + R, r + 2R, ...

    With R ranks of batch B/R the ranks together see, step by step, the same noise as one rank of batch B.

    Args:
        dataset (NoiseDataset): The noise.
        seed (int, optional): Ignored. The Runner passes it to every sampler.
    """

    def __init__(self, dataset: NoiseDataset, seed: int | None = None) -> None:
        self.size = len(dataset)
        self.rank, self.world_size = get_dist_info()
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start * self.world_size + self.rank, self.size, self.world_size))

    def __len__(self) -> int:
        return self.size // self.world_size

    def skip(self, num_samples: int) -> None:
        """Start after as many of this rank's samples, counted from the beginning of the stream."""
        self.start = num_samples
