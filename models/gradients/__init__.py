"""Backward passes of TensorFlow operators, made of TFLite built-in operators."""

from . import (
    activation,
    broadcast,
    convolution,
    convolution3d,
    depthwise,
    elementwise,
    movement,
    pooling,
    product,
    random,
    reduction,
    resize,
    shape,
    special,
)
from .backward import differentiate
from .registry import Rule, gradient, lower, lowering, native, override_gradients, rules

FAMILIES = (
    activation,
    broadcast,
    convolution,
    convolution3d,
    depthwise,
    elementwise,
    movement,
    pooling,
    product,
    random,
    reduction,
    resize,
    shape,
    special,
)
"""The modules whose import fills the registry."""

__all__ = [
    "FAMILIES",
    "Rule",
    "differentiate",
    "gradient",
    "lower",
    "lowering",
    "native",
    "override_gradients",
    "rules",
]
