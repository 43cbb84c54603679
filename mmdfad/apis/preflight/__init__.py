"""Checks of a teacher before a distillation begins."""
