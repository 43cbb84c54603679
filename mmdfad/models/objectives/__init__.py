"""Objectives: what a phase minimises."""

from .attention import AttentionTransfer
from .base import Discrepancy, Objective, Objectives
from .discrepancies import KLDiscrepancy, L1Discrepancy, LogL1Discrepancy, MSEDiscrepancy
from .priors import (
    ActivationPrior,
    BalancePrior,
    BNStatisticsPrior,
    DrawnLabelPrior,
    OneHotPrior,
    SpectrumPrior,
    TotalVariationPrior,
)
from .stages import StageImitation

__all__ = [
    'ActivationPrior',
    'AttentionTransfer',
    'BNStatisticsPrior',
    'BalancePrior',
    'Discrepancy',
    'DrawnLabelPrior',
    'KLDiscrepancy',
    'L1Discrepancy',
    'LogL1Discrepancy',
    'MSEDiscrepancy',
    'Objective',
    'Objectives',
    'OneHotPrior',
    'SpectrumPrior',
    'StageImitation',
    'TotalVariationPrior',
]
