"""The "dataset" of a validation without data."""

from collections.abc import Sequence

from torch import Tensor

from mmdfad.registry import DATASETS

from .noise import NoiseDataset


@DATASETS.register_module()
class ProbeDataset(NoiseDataset):
    """Numbers of probe images, and noise for as many images of the run's own generator.

    The distiller makes the probe images (:class:`~mmdfad.models.Probes`), because they depend on the teacher.
    """

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor | int]]:
        """For each index a dict of ``noise`` [noise_dim] and ``probe``, the number of a probe image."""
        vectors = super().__getitems__(indices)
        return [dict(noise=vector, probe=index) for vector, index in zip(vectors, indices, strict=True)]
