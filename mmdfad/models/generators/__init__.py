"""Generators: noise in, images in the teacher's normalised pixel space out."""

from .base import BaseGenerator
from .dcgan import DCGANGenerator
from .random_image import RandomImageGenerator
from .upsample import UpsampleGenerator

__all__ = ['BaseGenerator', 'DCGANGenerator', 'RandomImageGenerator', 'UpsampleGenerator']
