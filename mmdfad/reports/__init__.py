"""Reports of runs."""

from .hook import ReportHook

__all__ = ['ReportHook']
