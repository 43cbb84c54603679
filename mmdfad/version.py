"""Version of mmdfad."""

__version__ = '0.1.0'
