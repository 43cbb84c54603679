"""The methods that :func:`~mmdfad.apis.write_distillation` knows: one module each, which chooses all its settings."""

from collections.abc import Callable

from ..choices import Choices, Task
from .dfad import dfad_settings
from .ils import ils_settings

# From a task to a part of the config: the model without its networks, noise, optimizers, schedules and intervals.
METHODS: dict[str, Callable[[Choices, Task], dict]] = dict(ils=ils_settings, dfad=dfad_settings)

__all__ = ['METHODS']
