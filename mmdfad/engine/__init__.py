"""What runs the game: loop, optimizers, hooks."""

from .hooks import *  # noqa: F403
from .log_processor import DistillLogProcessor
from .loops import AdversarialDistillLoop
from .optim import CPUAmpOptimWrapper, PlayerOptimWrapperConstructor

__all__ = ['AdversarialDistillLoop', 'CPUAmpOptimWrapper', 'DistillLogProcessor', 'PlayerOptimWrapperConstructor']
