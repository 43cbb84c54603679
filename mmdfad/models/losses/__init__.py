"""Losses: plain modules on plain tensors."""

from .discrepancy import KLDiscrepancy, L1Discrepancy, LogL1Discrepancy, MSEDiscrepancy

__all__ = ['KLDiscrepancy', 'L1Discrepancy', 'LogL1Discrepancy', 'MSEDiscrepancy']
