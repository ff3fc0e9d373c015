"""Moving elements along one axis, at rank 3 or 4 whatever the tensor's own rank.

Old runtimes limit the rank of nearly every operator that moves elements; a reshape around it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from .window import static_shape


def around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """The product of the sizes before an axis, its own, and the product of those after it."""
    return int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))


def flatten_around(x: tf.Tensor, axis: int) -> tf.Tensor:
    """``x`` as ``[before, n, after]``."""
    return tf.reshape(x, around(static_shape(x), axis))


def unflatten(flat: tf.Tensor, like: Sequence[int], axis: int) -> tf.Tensor:
    """Undoes :func:`flatten_around` for an axis whose size may have changed."""
    return tf.reshape(flat, [*like[:axis], flat.shape[1], *like[axis + 1 :]])


def spread(x: tf.Tensor, axis: int, stride: int) -> tf.Tensor:
    """Puts ``stride - 1`` zeros between neighbours along an axis."""
    if stride == 1:
        return x
    shape = static_shape(x)
    before, size, after = around(shape, axis)
    zeros = [[0, 0], [0, stride - 1], [0, 0]]
    wide = tf.pad(tf.reshape(x, [before * size, 1, after]), zeros)
    flat = tf.reshape(wide, [before, size * stride, after])[:, : (size - 1) * stride + 1]
    return unflatten(flat, shape, axis)


def extend(x: tf.Tensor, axis: int, before: int, after: int, value: float = 0.0) -> tf.Tensor:
    """Pads an axis by positive margins and crops it by negative ones."""
    if before == after == 0:
        return x
    flat = flatten_around(x, axis)
    size = flat.shape[1]
    if before < 0 or after < 0:
        flat = flat[:, max(-before, 0) : size - max(-after, 0)]
    if before > 0 or after > 0:
        pads = [[0, 0], [max(before, 0), max(after, 0)], [0, 0]]
        flat = tf.pad(flat, pads, constant_values=value)
    return unflatten(flat, static_shape(x), axis)


def every(x: tf.Tensor, axis: int, start: int, count: int, stride: int) -> tf.Tensor:
    """``count`` elements along an axis, from ``start`` on, ``stride`` apart."""
    flat = flatten_around(x, axis)
    return unflatten(flat[:, start : start + (count - 1) * stride + 1 : stride], static_shape(x), axis)


def reverse(x: tf.Tensor, axis: int) -> tf.Tensor:
    """Turns an axis around."""
    return unflatten(tf.reverse(flatten_around(x, axis), [1]), static_shape(x), axis)


def grow(x: tf.Tensor, margins: Sequence[tuple[int, int]], value: float = 0.0) -> tf.Tensor:
    """Pads the spatial axes of ``[B, *spatial, C]`` by positive margins and crops by negative ones."""
    shape = static_shape(x)
    if any(before < 0 or after < 0 for before, after in margins):
        begin = [0, *(max(-before, 0) for before, _ in margins), 0]
        cut = [0, *(max(-before, 0) + max(-after, 0) for before, after in margins), 0]
        x = tf.slice(x, begin, [size - less for size, less in zip(shape, cut, strict=True)])
    pads = [[max(before, 0), max(after, 0)] for before, after in margins]
    return tf.pad(x, [[0, 0], *pads, [0, 0]], constant_values=value) if any(map(sum, pads)) else x
