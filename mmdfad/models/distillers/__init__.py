"""Distillers: who plays, and what one step is."""

from .adversarial import AdversarialDistiller

__all__ = ['AdversarialDistiller']
