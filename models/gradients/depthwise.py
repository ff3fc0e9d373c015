"""Depthwise 2-D convolutions."""

from __future__ import annotations

import itertools

import tensorflow as tf

from . import axis
from .registry import gradient
from .window import Window, static_shape, window_of


@gradient(
    "DepthwiseConv2dNative", note="dx: a depthwise convolution with the turned kernel; dW: a sum per tap"
)
def depthwise_conv2d(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of any stride, dilation and padding, with a channel multiplier."""
    x, filters = op.inputs
    window = window_of(op, x, static_shape(filters)[:2])
    multiplier = static_shape(filters)[3]
    return _input_gradient(x, filters, dy, window, multiplier), _filter_gradient(x, dy, window, multiplier)


def _input_gradient(
    x: tf.Tensor, filters: tf.Tensor, dy: tf.Tensor, window: Window, multiplier: int
) -> tf.Tensor:
    batch, height, width, channels = static_shape(x)
    for position, stride in enumerate(window.strides, start=1):
        dy = axis.spread(dy, position, stride)
    margins = []
    for size, extent, stretched, (before, _) in zip(
        window.size, window.extent, static_shape(dy)[1:3], window.pads, strict=True
    ):
        top = extent - 1 - before
        margins.append((top, size + extent - 1 - top - stretched))
    turned = tf.reverse(tf.reverse(filters, [0]), [1])
    if multiplier > 1:
        turned = tf.reshape(turned, [*window.kernel, channels * multiplier, 1])
    dy = axis.grow(dy, margins)
    dx = tf.nn.depthwise_conv2d(dy, turned, [1, 1, 1, 1], "VALID", dilations=window.dilations)
    if multiplier > 1:
        dx = tf.reduce_sum(tf.reshape(dx, [batch, height * width, channels, multiplier]), axis=-1)
    return tf.reshape(dx, [batch, height, width, channels])


def _filter_gradient(x: tf.Tensor, dy: tf.Tensor, window: Window, multiplier: int) -> tf.Tensor:
    channels = static_shape(x)[-1]
    x = axis.grow(x, window.margins)
    (height, width), (down, right) = window.output, window.strides
    pieces = []
    for row, column in itertools.product(*map(range, window.kernel)):
        top, left = row * window.dilations[0], column * window.dilations[1]
        piece = x[
            :, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right
        ]
        pieces.append(tf.reduce_sum(_repeat_channels(piece, multiplier) * dy, axis=[0, 1, 2]))
    return tf.reshape(tf.stack(pieces), [*window.kernel, channels, multiplier])


def _repeat_channels(x: tf.Tensor, times: int) -> tf.Tensor:
    if times == 1:
        return x
    batch, height, width, channels = static_shape(x)
    flat = tf.reshape(x, [batch * height * width, channels, 1]) * tf.ones([1, 1, times])
    return tf.reshape(flat, [batch, height, width, channels * times])
