"""Backbones of small students."""

from .lenet_half import LeNet5Half

__all__ = ['LeNet5Half']
