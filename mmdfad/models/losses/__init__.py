"""Losses: plain modules on plain tensors."""

from .discrepancy import KLDiscrepancy, L1Discrepancy, LogL1Discrepancy, MSEDiscrepancy
from .priors import BalancePrior, BNStatisticsPrior, GenerationPrior, OneHotPrior, TotalVariationPrior

__all__ = [
    'BNStatisticsPrior',
    'BalancePrior',
    'GenerationPrior',
    'KLDiscrepancy',
    'L1Discrepancy',
    'LogL1Discrepancy',
    'MSEDiscrepancy',
    'OneHotPrior',
    'TotalVariationPrior',
]
