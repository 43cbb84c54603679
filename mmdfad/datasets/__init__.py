"""Noise, the only training data; and real datasets, for teachers and for evaluation."""

from .mnist5k import Mnist5k
from .noise import NoiseDataset, NoiseSampler
from .probes import ProbeDataset
from .segmentation import CamVidDataset, NYUv2Dataset

__all__ = ['CamVidDataset', 'Mnist5k', 'NYUv2Dataset', 'NoiseDataset', 'NoiseSampler', 'ProbeDataset']
