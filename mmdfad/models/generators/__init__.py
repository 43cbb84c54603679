"""Generators: noise in, images in the teacher's normalised pixel space out."""

from .bank import ImageBank
from .base import Generator
from .dcgan import DCGANGenerator
from .decoder import DecoderGenerator
from .memory import ImageMemory
from .meta import MetaGenerator
from .mixture import MixtureGenerator
from .pictures import Pictures
from .pool import InversionPool
from .procedural import DeadLeaves
from .random_image import RandomImageGenerator
from .strokes import Strokes
from .upsample import UpsampleGenerator
from .wrappers import AugmentedGenerator, EMAGenerator, GeneratorWrapper, ReplayGenerator

__all__ = [
    'AugmentedGenerator',
    'DCGANGenerator',
    'DeadLeaves',
    'DecoderGenerator',
    'EMAGenerator',
    'Generator',
    'GeneratorWrapper',
    'ImageBank',
    'ImageMemory',
    'InversionPool',
    'MetaGenerator',
    'MixtureGenerator',
    'Pictures',
    'RandomImageGenerator',
    'ReplayGenerator',
    'Strokes',
    'UpsampleGenerator',
]
