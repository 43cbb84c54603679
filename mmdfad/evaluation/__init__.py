"""Metrics."""

from .agreement import AgreementMetric
from .predicted_agreement import PredictedAgreementMetric
from .prediction import Prediction, predict_agreement

__all__ = ['AgreementMetric', 'PredictedAgreementMetric', 'Prediction', 'predict_agreement']
