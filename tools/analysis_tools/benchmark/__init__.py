"""Times rounds. ``benchmark_rounds.py`` is its command line."""
