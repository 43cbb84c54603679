"""Helpers that know nothing of the rest of the package."""

from .errors import DistillError, as_pair, first_of, require_count, require_positive
from .setup_env import register_all_modules
from .tool import readable_errors

__all__ = [
    'DistillError',
    'as_pair',
    'first_of',
    'readable_errors',
    'register_all_modules',
    'require_count',
    'require_positive',
]
