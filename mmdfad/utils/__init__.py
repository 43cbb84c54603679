"""Helpers that know nothing of the rest of the package."""

from .errors import DistillError, readable_errors

__all__ = ['DistillError', 'readable_errors']
