"""Any trained model as plain class logits."""

from .base import LogitModel, NoLogits, unsupported_reason
from .build import as_logits, detach_auxiliary_heads, init_weights
from .classifiers import ClassifierLogits
from .segmentors import SegmentorLogits

__all__ = [
    'ClassifierLogits',
    'LogitModel',
    'NoLogits',
    'SegmentorLogits',
    'as_logits',
    'detach_auxiliary_heads',
    'init_weights',
    'unsupported_reason',
]
