"""Broadcasts of more than four axes, which abort tflite-runtime 2.14."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from .registry import lowering
from .window import static_shape

OPERATORS = ("AddV2", "Add", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "SquaredDifference")
"""What is merged, in the forward graph and, by a second pass, in the backward graph."""


@lowering(
    *OPERATORS,
    note="above rank 4: neighbouring axes that broadcast alike are merged first",
)
def binary(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """Reshapes both operands to as few axes as their broadcast needs."""
    if op.outputs[0].shape.rank <= 4:
        return None
    result = static_shape(op.outputs[0])
    if all(static_shape(x) == result for x in op.inputs):
        return None
    shapes = [[1] * (len(result) - x.shape.rank) + static_shape(x) for x in op.inputs]
    merged = _merge(shapes, result)
    operator = getattr(tf.raw_ops, op.type)
    operands = [tf.reshape(x, shape) for x, shape in zip(op.inputs, merged, strict=True)]
    while len(merged[0]) > 4:
        operands, merged = _widen(operands, merged)
    return tf.reshape(operator(x=operands[0], y=operands[1]), result)


@lowering("SelectV2", note="above rank 4: neighbouring axes that broadcast alike are merged first")
def select(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """Reshapes the condition and both choices to as few axes as their broadcast needs."""
    result = static_shape(op.outputs[0])
    if len(result) <= 4 or all(static_shape(x) == result for x in op.inputs):
        return None
    shapes = [[1] * (len(result) - x.shape.rank) + static_shape(x) for x in op.inputs]
    operands = [tf.reshape(x, shape) for x, shape in zip(op.inputs, _merge(shapes, result), strict=True)]
    return tf.reshape(tf.where(*operands), result)


def _merge(shapes: list[list[int]], result: list[int]) -> list[list[int]]:
    """The shapes with runs of axes joined along which the same operands are broadcast."""
    runs: list[tuple[tuple[bool, ...], list[list[int]]]] = []
    for sizes, size in zip(zip(*shapes, strict=True), result, strict=True):
        pattern = tuple(own != size for own in sizes)
        if size == 1:
            continue
        if not runs or runs[-1][0] != pattern:
            runs.append((pattern, [[] for _ in shapes]))
        for joined, own in zip(runs[-1][1], sizes, strict=True):
            joined.append(own)
    return [[int(np.prod(run[1][operand])) for run in runs] for operand in range(len(shapes))]


def _widen(operands: list[tf.Tensor], shapes: list[list[int]]) -> tuple[list[tf.Tensor], list[list[int]]]:
    """Repeats the operand that the last axis broadcasts, which joins that axis with the one before."""
    widened = []
    for operand, shape, other in zip(operands, shapes, reversed(shapes), strict=True):
        for position in (len(shape) - 1, len(shape) - 2):
            if shape[position] != other[position] and shape[position] == 1:
                before, after = int(np.prod(shape[:position])), int(np.prod(shape[position + 1 :]))
                ones = tf.ones([1, other[position], 1], operand.dtype)
                operand = tf.reshape(operand, [before, 1, after]) * ones
                shape = [*shape[:position], other[position], *shape[position + 1 :]]
        widened.append((operand, [*shape[:-2], shape[-2] * shape[-1]]))
    return [tf.reshape(operand, shape) for operand, shape in widened], [shape for _, shape in widened]
