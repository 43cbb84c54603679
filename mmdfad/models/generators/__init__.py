"""Generators: noise in, images in the teacher's normalised pixel space out."""

from .bank import ImageBank
from .base import Generator
from .dcgan import DCGANGenerator
from .memory import ImageMemory
from .meta import MetaGenerator
from .pictures import Pictures
from .procedural import DeadLeaves
from .random_image import RandomImageGenerator
from .upsample import UpsampleGenerator
from .wrappers import AugmentedGenerator, EMAGenerator, GeneratorWrapper, ReplayGenerator

__all__ = [
    'AugmentedGenerator',
    'DCGANGenerator',
    'DeadLeaves',
    'EMAGenerator',
    'Generator',
    'GeneratorWrapper',
    'ImageBank',
    'ImageMemory',
    'MetaGenerator',
    'Pictures',
    'RandomImageGenerator',
    'ReplayGenerator',
    'UpsampleGenerator',
]
