"""Generators: noise in, images in the teacher's normalised pixel space out."""

from .base import Generator
from .dcgan import DCGANGenerator
from .memory import ImageMemory
from .meta import MetaGenerator
from .random_image import RandomImageGenerator
from .upsample import UpsampleGenerator
from .wrappers import AugmentedGenerator, EMAGenerator, GeneratorWrapper, ReplayGenerator

__all__ = [
    'AugmentedGenerator',
    'DCGANGenerator',
    'EMAGenerator',
    'Generator',
    'GeneratorWrapper',
    'ImageMemory',
    'MetaGenerator',
    'RandomImageGenerator',
    'ReplayGenerator',
    'UpsampleGenerator',
]
