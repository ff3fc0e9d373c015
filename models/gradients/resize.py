"""Resizing images: linear along each axis, so forward and backward are products with a constant matrix."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from .registry import gradient
from .window import static_shape


@gradient(
    "ResizeBilinear", "ResizeNearestNeighbor", note="products with the transposed interpolation matrices"
)
def resize(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """The matrices are what the operator itself makes of unit images."""
    batch, height, width, channels = static_shape(op.inputs[0])
    new_height, new_width = static_shape(dy)[1:3]
    rows, columns = _matrix(op, height, new_height), _matrix(op, width, new_width)
    flat = tf.reshape(dy, [batch, new_height, new_width * channels])
    flat = tf.matmul(tf.constant(rows.T), flat)
    flat = tf.reshape(flat, [batch * height, new_width, channels])
    return tf.reshape(tf.matmul(tf.constant(columns.T), flat), [batch, height, width, channels]), None


def _matrix(op: tf.Operation, size: int, new_size: int) -> np.ndarray:  # type: ignore[type-arg]
    """``[new_size, size]``: the weight of each input element in each output element."""
    operator = getattr(tf.raw_ops, op.type)
    unit = np.eye(size, dtype=np.float32).reshape(1, size, 1, size)
    with tf.init_scope():
        resized = operator(
            images=unit,
            size=[new_size, 1],
            align_corners=op.get_attr("align_corners"),
            half_pixel_centers=op.get_attr("half_pixel_centers"),
        )
        matrix: np.ndarray = resized.numpy().reshape(new_size, size)  # type: ignore[type-arg]
    return matrix
