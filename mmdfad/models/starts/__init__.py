"""Starts: what a student knows before the first round."""

from .base import Start
from .selection import ChannelSelection

__all__ = ['ChannelSelection', 'Start']
