"""Backward passes of element-wise operators that broadcast.

TensorFlow's own compute the axes to reduce at run time; with static shapes they are known at conversion.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from .registry import gradient, lowering, native
from .window import static_shape

native(
    "Neg", "Exp", "Log", "Log1p", "Sqrt", "Sin", "Cos", "Cast", "Sign", "Floor",
    "AddN", "Erf", family="elementwise",
)  # fmt: skip


@lowering("AddN", note="one addition after the other: the fast kernels have no sum of many")
def add_many(op: tf.Operation, training: bool) -> tf.Tensor:
    """What ``tf.gradients`` adds up where a tensor is read more than once, too."""
    return functools.reduce(tf.add, op.inputs)


@gradient("BiasAdd", note="dy, and its sum over all axes but the last")
def bias_add(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The bias gradient sums over every row."""
    return dy, unbroadcast(dy, op.inputs[1])


@gradient("AddV2", "Add", note="dy, summed over the broadcast axes")
def add(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Either operand may have been broadcast."""
    return unbroadcast(dy, op.inputs[0]), unbroadcast(dy, op.inputs[1])


@gradient("Sub", note="dy and -dy, summed over the broadcast axes")
def subtract(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Either operand may have been broadcast."""
    return unbroadcast(dy, op.inputs[0]), -unbroadcast(dy, op.inputs[1])


@gradient("Mul", note="dy times the other operand, summed over the broadcast axes")
def multiply(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Either operand may have been broadcast."""
    a, b = op.inputs
    return unbroadcast(dy * b, a), unbroadcast(dy * a, b)


@gradient("RealDiv", note="dy / b and -dy * y / b, summed over the broadcast axes")
def divide(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Either operand may have been broadcast."""
    a, b = op.inputs
    quotient = dy / b
    return unbroadcast(quotient, a), unbroadcast(-quotient * op.outputs[0], b)


@gradient("Rsqrt", note="-dy * y ** 3 / 2")
def reciprocal_root(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """From the output."""
    y = op.outputs[0]
    return (dy * -0.5) * (y * y * y)


@gradient("SquaredDifference", note="2 dy (a - b) and its negative, summed over the broadcast axes")
def squared_difference(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Either operand may have been broadcast."""
    a, b = op.inputs
    slope = (2.0 * dy) * (a - b)
    return unbroadcast(slope, a), -unbroadcast(slope, b)


def unbroadcast(dy: tf.Tensor, operand: tf.Tensor) -> tf.Tensor:
    """Sums a gradient over the axes along which an operand was broadcast.

    Args:
        dy: Gradient of the broadcast result.
        operand: What was broadcast.

    Returns:
        A gradient of the operand's shape.
    """
    source, target = static_shape(dy), static_shape(operand)
    if source == target:
        return dy
    lead = len(source) - len(target)
    axes = [
        axis for axis, size in enumerate(source) if axis < lead or (target[axis - lead] == 1 and size != 1)
    ]
    summed = tf.reduce_sum(dy, axis=axes) if axes else dy
    return tf.reshape(summed, target)
