"""What runs the game: loop, optimizers, hooks."""

from .hooks import *  # noqa: F403
from .log_processor import DistillLogProcessor
from .loops import AdversarialDistillLoop
from .optim import BFloat16OptimWrapper, PlayerOptimWrapperConstructor

__all__ = ['AdversarialDistillLoop', 'BFloat16OptimWrapper', 'DistillLogProcessor', 'PlayerOptimWrapperConstructor']
