"""Metrics."""

from .agreement import AgreementMetric

__all__ = ['AgreementMetric']
