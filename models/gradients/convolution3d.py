"""3-D convolutions, plain and transposed."""

from __future__ import annotations

import itertools

import tensorflow as tf

from . import axis
from .registry import gradient, lowering
from .window import Window, static_shape, window_of


@lowering("Conv3D", note="one convolution per group")
def grouped_convolution(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """CONV_3D has no groups."""
    x, filters = op.inputs
    groups = static_shape(x)[-1] // static_shape(filters)[3]
    if groups == 1:
        return None
    strides, padding = op.get_attr("strides"), op.get_attr("padding").decode()
    pieces = [
        tf.nn.conv3d(piece, kernel, strides, padding)
        for piece, kernel in zip(tf.split(x, groups, -1), tf.split(filters, groups, -1), strict=True)
    ]
    return tf.concat(pieces, -1)


@gradient("Conv3D", note="dx: a transposed convolution; dW: a matrix product per tap")
def conv3d(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of any stride and padding; dilations arrive as SpaceToBatchND."""
    x, filters = op.inputs
    window = window_of(op, x, static_shape(filters)[:3])
    dx = tf.nn.conv3d_transpose(dy, filters, static_shape(x), op.get_attr("strides"), window.padding)
    return dx, _filter_gradient(x, dy, window)


@gradient("Conv3DBackpropInputV2", note="as Conv3D, with input and output exchanged")
def conv3d_transpose(op: tf.Operation, dy: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
    """The input gradient of a transposed convolution is the convolution itself."""
    _, filters, x = op.inputs
    window = window_of(op, dy, static_shape(filters)[:3])
    dx = tf.nn.conv3d(dy, filters, op.get_attr("strides"), window.padding)
    return None, _filter_gradient(dy, x, window), dx


def _filter_gradient(x: tf.Tensor, dy: tf.Tensor, window: Window) -> tf.Tensor:
    channels, outputs = static_shape(x)[-1], static_shape(dy)[-1]
    x = axis.grow(x, window.margins)
    flat_dy = tf.reshape(dy, [-1, outputs])
    products = []
    for tap in itertools.product(*map(range, window.kernel)):
        piece = x
        for position, (start, count, stride) in enumerate(
            zip(tap, window.output, window.strides, strict=True), start=1
        ):
            piece = axis.every(piece, position, start, count, stride)
        products.append(tf.matmul(tf.reshape(piece, [-1, channels]), flat_dy, transpose_a=True))
    return tf.reshape(tf.stack(products), [*window.kernel, channels, outputs])
