"""Backward passes of sums, means and extremes over axes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ...errors import DynamicShapeError
from .registry import gradient
from .window import static_shape


@gradient("Sum", note="dy broadcast over the summed axes, with at most rank 4")
def reduce_sum(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Spreads the gradient evenly.

    That of a regularizer's sum is one number. `even` finds it again, so that no tensor of a weight's size
    holds it many times: the converter would keep it in the file as a constant.
    """
    spread = expand(dy, op)
    if len(_axes(op)) == op.inputs[0].shape.rank:
        spread._even = tf.reshape(dy, [])
    return spread, None


def even(dy: tf.Tensor) -> tf.Tensor:
    """A gradient as one number, where it is the same for all elements; else as it is."""
    return getattr(dy, "_even", dy)


@gradient("Square", note="2 dy x")
def square(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """The slope of a square."""
    return (2.0 * even(dy)) * op.inputs[0]


@gradient("Abs", note="dy sign(x)")
def absolute(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """The slope of an absolute value, 0 at 0."""
    return even(dy) * tf.sign(op.inputs[0])


@gradient("Mean", note="dy divided by the count, broadcast over the averaged axes, with at most rank 4")
def reduce_mean(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Spreads the gradient evenly."""
    shape = static_shape(op.inputs[0])
    count = int(np.prod([shape[axis] for axis in _axes(op)]))
    return expand(dy, op, 1.0 / count), None


@gradient("Max", "Min", note="dy where the element equals the extreme, shared among equals")
def reduce_extreme(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Shares the gradient among equal elements, as TensorFlow does."""
    x = op.inputs[0]
    mask = tf.cast(tf.equal(x, expand(op.outputs[0], op)), dy.dtype)
    count = tf.reduce_sum(mask, axis=_axes(op), keepdims=op.get_attr("keep_dims"))
    return expand(dy / count, op) * mask, None


def expand(reduced: tf.Tensor, op: tf.Operation, factor: float = 1.0) -> tf.Tensor:
    """Broadcasts a reduction's output, or its gradient, to the input's shape.

    Neighbouring axes that are all reduced, or all kept, are merged first: old runtimes abort on a
    broadcast of more than four axes.

    Args:
        reduced: A tensor of the output's shape.
        op: The reduction, with axes known at conversion.
        factor: What to multiply by on the way.
    """
    shape, axes = static_shape(op.inputs[0]), set(_axes(op))
    merged: list[tuple[int, bool]] = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if merged and merged[-1][1] == (axis in axes):
            merged[-1] = (merged[-1][0] * size, merged[-1][1])
        else:
            merged.append((size, axis in axes))
    while len(merged) > 4:
        reduced, merged = _expand_last(reduced, merged)
    kept = tf.reshape(reduced, [1 if gone else size for size, gone in merged])
    if factor != 1.0 or any(gone for _, gone in merged):
        sizes = [size if gone else 1 for size, gone in merged]
        kept = kept * tf.constant(factor, reduced.dtype, shape=sizes)
    return tf.reshape(kept, shape)


def _expand_last(
    reduced: tf.Tensor, merged: list[tuple[int, bool]]
) -> tuple[tf.Tensor, list[tuple[int, bool]]]:
    """Broadcasts the last reduced axis alone, which merges it with its neighbours."""
    last = max(index for index, (_, gone) in enumerate(merged) if gone)
    before = int(np.prod([1 if gone else size for size, gone in merged[:last]]))
    after = int(np.prod([size for size, _ in merged[last + 1 :]]))
    wide = tf.reshape(reduced, [before, 1, after]) * tf.ones([1, merged[last][0], 1], reduced.dtype)
    joined = int(np.prod([size for size, _ in merged[last - 1 :]]))
    return wide, [*merged[: last - 1], (joined, False)] if not merged[last - 1][1] else merged


def _axes(op: tf.Operation) -> list[int]:
    axes = tf.get_static_value(op.inputs[1])
    if axes is None:
        raise DynamicShapeError(f"The axes of {op.type} in {op.name!r} are not known at conversion.")
    rank = len(static_shape(op.inputs[0]))
    return [int(axis) % rank for axis in np.atleast_1d(axes)]
