"""Networks, generators, objectives and starts, and the distiller that connects them."""

from .backbones import *  # noqa: F403
from .distiller import AdversarialDistiller
from .distributed import DistributedDistiller
from .generators import *  # noqa: F403
from .objectives import *  # noqa: F403
from .starts import *  # noqa: F403
from .torch_classifier import TorchClassifier

__all__ = ['AdversarialDistiller', 'DistributedDistiller', 'TorchClassifier']
