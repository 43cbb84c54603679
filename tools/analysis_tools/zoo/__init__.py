"""Runs a round with each model of mmpretrain and mmseg. ``zoo_coverage.py`` is its command line."""
