"""Faster and smaller networks with the same outputs up to rounding.

Nothing here knows of distillation. :class:`~mmdfad.engine.AccelerationHook` applies it.
"""

from .attention import attend_in_float32
from .checkpointing import checkpoint_activations
from .dilations import optimize_dilated_convs
from .dtypes import cast_weights, computing_dtype, sample_in
from .fast import FastForm
from .fold import fold_norms
from .layout import supports_channels_last, to_channels_last, train_in_channels_last

__all__ = [
    'FastForm',
    'attend_in_float32',
    'cast_weights',
    'checkpoint_activations',
    'computing_dtype',
    'fold_norms',
    'optimize_dilated_convs',
    'sample_in',
    'supports_channels_last',
    'to_channels_last',
    'train_in_channels_last',
]
