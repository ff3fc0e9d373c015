"""Operators that cut, repeat, turn around or look up elements."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ...errors import DynamicShapeError, UncoveredOperatorError
from . import axis
from .registry import gradient, lowering, native
from .window import static_shape

native("Slice", "Cumsum", family="movement")


@gradient("StridedSlice", note="per axis: turned around, spread by the stride, padded")
def strided_slice(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None, None, None]:
    """The slice that Python's own indexing takes, put back among zeros."""
    shape = static_shape(op.inputs[0])
    ranges = _ranges(op, shape)
    dx = tf.reshape(dy, [len(taken) for taken in ranges])
    for position, (taken, size) in enumerate(zip(ranges, shape, strict=True)):
        if taken.step < 0:
            dx, taken = axis.reverse(dx, position), taken[::-1]
        dx = axis.spread(dx, position, taken.step if len(taken) > 1 else 1)
        dx = axis.extend(dx, position, taken[0], size - 1 - taken[-1])
    return dx, None, None, None


@gradient("Tile", note="a sum over each repeated axis")
def tile(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Sums the copies, an axis at a time: runtimes limit the rank of a sum."""
    sizes, wholes = static_shape(op.inputs[0]), static_shape(op.outputs[0])
    for position, (size, whole) in enumerate(zip(sizes, wholes, strict=True)):
        if size == whole:
            continue
        shape = static_shape(dy)
        before, _, after = axis.around(shape, position)
        copies = tf.reduce_sum(tf.reshape(dy, [before, whole // size, size * after]), axis=1)
        dy = tf.reshape(copies, [*shape[:position], size, *shape[position + 1 :]])
    return dy, None


@lowering("ReverseV2", note="one axis at a time: tflite-runtime 2.14 gets several wrong")
def reverse_apart(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """Turns the axes around one after the other."""
    axes = _constant(op, 1)
    if len(axes) < 2 and op.inputs[0].shape.rank <= 4:
        return None
    y = op.inputs[0]
    for position in axes:
        y = axis.reverse(y, int(position) % len(static_shape(y)))
    return y


@gradient("ReverseV2", note="turned around again")
def reverse(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """One axis at a time."""
    for position in _constant(op, 1):
        dy = axis.reverse(dy, int(position) % len(static_shape(dy)))
    return dy, None


@gradient("GatherV2", note="SCATTER_ND, which adds up rows that were taken more than once")
def gather(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None, None]:
    """The gradient of a table is dense: every row of it, most of them 0."""
    table, indices, _ = op.inputs
    position = int(_constant(op, 2)) % table.shape.rank
    if op.get_attr("batch_dims"):
        raise UncoveredOperatorError(
            f"GatherV2 with batch dimensions in {op.name!r} is not covered.", layer=op.name
        )
    shape, count = static_shape(table), int(np.prod(static_shape(indices)))
    before, size, after = axis.around(shape, position)
    rows = tf.reshape(dy, [before, count, after])
    if before > 1:
        rows = tf.transpose(rows, [1, 0, 2])
    rows = tf.reshape(rows, [count, before * after])
    places = tf.reshape(tf.cast(indices, tf.int32), [count, 1])
    summed = tf.scatter_nd(places, rows, [size, before * after])
    if before > 1:
        summed = tf.transpose(tf.reshape(summed, [size, before, after]), [1, 0, 2])
    return tf.reshape(summed, shape), None, None


@lowering("SpaceToBatchND", note="above rank 4: a transposition per axis")
def space_to_batch(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """TFLite's own takes rank 4 at most; dilated 3-D convolutions need rank 5."""
    x = op.inputs[0]
    if x.shape.rank <= 4:
        return None
    blocks, pads = _constant(op, 1), _constant(op, 2)
    for position, (before, after) in enumerate(pads, start=1):
        x = axis.extend(x, position, int(before), int(after))
    for position in reversed(range(1, len(blocks) + 1)):
        block, shape = int(blocks[position - 1]), static_shape(x)
        before, size, after = axis.around(shape, position)
        apart = tf.transpose(tf.reshape(x, [before, size // block, block, after]), [2, 0, 1, 3])
        x = tf.reshape(apart, [block * shape[0], *shape[1:position], size // block, *shape[position + 1 :]])
    return x


@lowering("BatchToSpaceND", note="above rank 4: a transposition per axis")
def batch_to_space(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """The inverse of :func:`space_to_batch`."""
    x = op.inputs[0]
    if x.shape.rank <= 4:
        return None
    blocks, crops = _constant(op, 1), _constant(op, 2)
    for position in range(1, len(blocks) + 1):
        block, shape = int(blocks[position - 1]), static_shape(x)
        inner = [shape[0] // block, *shape[1:position]]
        _, size, after = axis.around(shape, position)
        together = tf.reshape(x, [block, int(np.prod(inner)), size, after])
        x = tf.reshape(tf.transpose(together, [1, 2, 0, 3]), [*inner, size * block, *shape[position + 1 :]])
    for position, (before, after) in enumerate(crops, start=1):
        x = axis.extend(x, position, -int(before), -int(after))
    return x


def _ranges(op: tf.Operation, shape: list[int]) -> list[range]:
    """What a strided slice takes of each axis; a new axis is not in the list."""
    begin, end, strides = (_constant(op, index).tolist() for index in (1, 2, 3))
    masks = {
        name: op.get_attr(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    fresh = sum(bool(masks["new_axis"] >> index & 1) for index in range(len(begin)))
    ranges: list[range] = []
    for index, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << index
        if masks["ellipsis"] & bit:
            later = sum(not masks["new_axis"] >> i & 1 for i in range(index + 1, len(begin)))
            ranges += [range(size) for size in shape[len(ranges) : len(shape) - later]]
        elif masks["new_axis"] & bit:
            continue
        elif masks["shrink_axis"] & bit:
            place = start % shape[len(ranges)]
            ranges.append(range(place, place + 1))
        else:
            first = None if masks["begin"] & bit else start
            last = None if masks["end"] & bit else stop
            ranges.append(range(*slice(first, last, step).indices(shape[len(ranges)])))
    if fresh > len(begin) or any(len(taken) == 0 for taken in ranges):
        raise UncoveredOperatorError(f"The slice {op.name!r} is empty.", layer=op.name)
    return ranges + [range(size) for size in shape[len(ranges) :]]


def _constant(op: tf.Operation, index: int) -> np.ndarray:  # type: ignore[type-arg]
    value = tf.get_static_value(op.inputs[index])
    if value is None:
        raise DynamicShapeError(
            f"The operand {index} of {op.type} in {op.name!r} is not known at conversion."
        )
    return np.asarray(value)
