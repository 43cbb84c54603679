"""Networks, losses and what connects them."""

from .augment import *  # noqa: F403
from .backbones import *  # noqa: F403
from .distillers import *  # noqa: F403
from .distributed import *  # noqa: F403
from .generators import *  # noqa: F403
from .losses import *  # noqa: F403
from .replay import *  # noqa: F403
from .torch_classifier import *  # noqa: F403
