"""Pairs of teachers and students, and how well agreement can be predicted. ``calibrate.py`` is its command line."""
