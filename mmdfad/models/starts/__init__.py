"""Starts: what a student knows before the first round."""

from .base import Start
from .least_squares import LeastSquaresStart
from .selection import ChannelSelection, is_version_of

__all__ = ['ChannelSelection', 'LeastSquaresStart', 'Start', 'is_version_of']
