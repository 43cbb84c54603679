"""Loop, optimizers and hooks."""

from .hooks import *  # noqa: F403
from .log_processor import DistillLogProcessor
from .loop import AdversarialDistillLoop
from .optim import BFloat16OptimWrapper, DistillOptimWrapperConstructor
from .runner import DistillRunner, SafeRunner

__all__ = [
    'AdversarialDistillLoop',
    'BFloat16OptimWrapper',
    'DistillLogProcessor',
    'DistillOptimWrapperConstructor',
    'DistillRunner',
    'SafeRunner',
]
