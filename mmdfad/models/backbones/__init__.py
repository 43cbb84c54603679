"""Small students that no other package has."""

from .lenet_half import LeNet5Half

__all__ = ['LeNet5Half']
