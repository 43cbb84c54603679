"""Helpers that know nothing of the rest of the package."""

from .errors import DistillError, readable_errors, require_positive

__all__ = ['DistillError', 'readable_errors', 'require_positive']
