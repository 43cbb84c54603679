"""Noise, the only training data; and real datasets, for teachers and for evaluation."""

from .mnist5k import Mnist5k
from .noise import NoiseDataset, NoiseSampler

__all__ = ['Mnist5k', 'NoiseDataset', 'NoiseSampler']
