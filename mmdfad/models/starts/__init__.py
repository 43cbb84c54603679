"""Starts: what a student knows before the first round."""

from .base import Start
from .least_squares import LeastSquaresStart
from .selection import ChannelSelection

__all__ = ['ChannelSelection', 'LeastSquaresStart', 'Start']
