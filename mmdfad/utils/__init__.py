"""Helpers that know nothing of the rest of the package."""

from .errors import DistillError, as_pair, require_count, require_positive
from .tool import readable_errors

__all__ = ['DistillError', 'as_pair', 'readable_errors', 'require_count', 'require_positive']
