"""2-D convolutions (and 1-D ones, which Keras writes as 2-D of height 1), plain and transposed.

No TFLite operator computes a filter gradient, and the fast CPU kernels take a convolution only with constant
filters. In training a convolution is therefore a matrix product: over windows of a single row where that
copies less, else over whole patches. Both share what they copied with the backward pass. Where patches would
be too large the kernel is kept, and the filter gradient is a convolution of the transposed input with the
transposed output gradient.
"""

from __future__ import annotations

import math

import tensorflow as tf

from . import axis, rows
from .patches import cut, paste
from .product import batched, multiply
from .registry import gradient, lowering
from .window import Window, static_shape, window_of

# Above this many elements per patch the convolution kernels beat patches and a matrix product.
_LARGEST_PATCH = 1152
# Up to this many patches, an input gradient by patches beats a convolution with variable weights.
_MOST_PATCHES = 8192


@lowering("Conv2D", note="groups apart; in training one matrix product over rows or patches")
def convolution(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """Splits groups, and in training writes a convolution as a matrix product."""
    x, filters = op.inputs
    channels, outputs = static_shape(filters)[2:]
    window = window_of(op, x, static_shape(filters)[:2])
    if static_shape(x)[-1] != channels:
        return _grouped(op, window)
    if not training or filters.op.type == "Const":
        return None
    if window.is_pointwise:
        flat = batched(tf.reshape(x, [-1, channels]), tf.reshape(filters, [channels, outputs]))
        return tf.reshape(flat, op.outputs[0].shape)
    if window.taps * channels > _LARGEST_PATCH:
        return None
    return (
        rows.convolve(x, filters, window)
        if _rows_pay(window, channels, outputs)
        else _by_patches(x, filters, window)
    )


def _rows_pay(window: Window, channels: int, outputs: int) -> bool:
    """Whether windows of one row copy less than patches, and few rows are computed in vain."""
    copied = window.kernel[1] * channels + window.kernel[0] * outputs
    tall = window.output[0] > 4 * (window.extent[0] - 1)
    return set(window.strides) == {1} and tall and channels > 1 and copied < window.taps * channels


@gradient("Conv2D", note="dx: a (transposed) convolution; dW: a convolution of transposed input and gradient")
def conv2d(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of any stride, dilation and padding."""
    x, filters = op.inputs
    window = window_of(op, x, static_shape(filters)[:2])
    return _input_gradient(static_shape(x), filters, dy, window), _filter_gradient(x, dy, window)


@lowering("Conv2DBackpropInput", note="where dilated: a convolution with the turned kernel")
def transposed_convolution(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """TRANSPOSE_CONV has no dilation; Keras allows one only with stride 1."""
    if set(op.get_attr("dilations")) == {1}:
        return None
    _, filters, x = op.inputs
    shape = static_shape(op.outputs[0])
    window = window_of(op, op.outputs[0], static_shape(filters)[:2])
    return _input_gradient(shape, filters, x, window)


@gradient("Conv2DBackpropInput", note="as Conv2D, with input and output exchanged")
def conv2d_transpose(op: tf.Operation, dy: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
    """The input gradient of a transposed convolution is the convolution itself."""
    _, filters, x = op.inputs
    window = window_of(op, dy, static_shape(filters)[:2])
    dx = tf.nn.conv2d(dy, filters, window.strides, window.padding)
    return None, _filter_gradient(dy, x, window), dx


def _by_patches(x: tf.Tensor, filters: tf.Tensor, window: Window) -> tf.Tensor:
    channels, outputs = static_shape(filters)[2:]
    batch = static_shape(x)[0]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def convolve(x: tf.Tensor, filters: tf.Tensor) -> tuple[tf.Tensor, object]:
        patches = cut(x, window)
        flat = tf.reshape(filters, [window.taps * channels, outputs])
        y = tf.reshape(batched(patches, flat), [batch, *window.output, outputs])

        def backward(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            dy_flat = tf.reshape(dy, [-1, outputs])
            product = tf.matmul(patches, dy_flat, transpose_a=True)
            d_filters = tf.reshape(product, [*window.kernel, channels, outputs])
            if set(window.strides) == {1}:
                return _input_gradient(static_shape(x), filters, dy, window), d_filters
            return paste(multiply(dy_flat, flat, transpose_b=True), window, channels), d_filters

        return y, backward

    return convolve(x, filters)


def _grouped(op: tf.Operation, window: Window) -> tf.Tensor:
    """A convolution per group; TensorFlow and old TFLite kernels have none for groups."""
    x, filters = op.inputs
    channels, (group_channels, outputs) = static_shape(x)[-1], static_shape(filters)[2:]
    groups = channels // group_channels
    strides, padding = op.get_attr("strides"), window.padding
    if group_channels == 1 and len(set(window.strides)) == 1 and padding != "EXPLICIT":
        apart = tf.reshape(filters, [*window.kernel, channels, outputs // groups])
        return tf.nn.depthwise_conv2d(x, apart, strides, padding, dilations=window.dilations)
    x = x if padding != "EXPLICIT" else axis.grow(x, window.pads)
    padding = padding if padding != "EXPLICIT" else "VALID"
    pieces = [
        tf.nn.conv2d(piece, kernel, strides, padding, dilations=window.dilations)
        for piece, kernel in zip(tf.split(x, groups, -1), tf.split(filters, groups, -1), strict=True)
    ]
    return tf.concat(pieces, -1)


def _input_gradient(shape: list[int], filters: tf.Tensor, dy: tf.Tensor, window: Window) -> tf.Tensor:
    if window.is_pointwise:
        channels, outputs = static_shape(filters)[2:]
        flat = multiply(
            tf.reshape(dy, [-1, outputs]), tf.reshape(filters, [channels, outputs]), transpose_b=True
        )
        return tf.reshape(flat, shape)
    if set(window.strides) == {1}:
        turned = tf.transpose(tf.reverse(tf.reverse(filters, [0]), [1]), [0, 1, 3, 2])
        margins = [
            (extent - 1 - before, extent - 1 - after)
            for extent, (before, after) in zip(window.extent, window.pads, strict=True)
        ]
        return _correlate(axis.grow(dy, margins), turned, shape, window)
    if window.padding != "EXPLICIT":
        return tf.nn.conv2d_transpose(dy, filters, shape, window.strides, window.padding)
    padded = [n + sum(p) for n, p in zip(window.size, window.pads, strict=True)]
    whole = tf.nn.conv2d_transpose(dy, filters, [shape[0], *padded, shape[-1]], window.strides, "VALID")
    return axis.grow(whole, [(-before, -after) for before, after in window.pads])


def _correlate(dy: tf.Tensor, turned: tf.Tensor, shape: list[int], window: Window) -> tf.Tensor:
    """A convolution of stride 1 without padding."""
    outputs, channels = static_shape(turned)[2:]
    few = math.prod(shape[:3]) <= _MOST_PATCHES and window.taps * outputs <= _LARGEST_PATCH
    if not few or outputs < 4:
        return tf.nn.conv2d(dy, turned, 1, "VALID", dilations=window.dilations)
    size = tuple(static_shape(dy)[1:3])
    around = Window(size, window.kernel, (1, 1), window.dilations, ((0, 0), (0, 0)), "VALID")
    flat = tf.reshape(turned, [window.taps * outputs, channels])
    return tf.reshape(tf.matmul(cut(dy, around), flat), shape)


def _filter_gradient(x: tf.Tensor, dy: tf.Tensor, window: Window) -> tf.Tensor:
    channels, outputs = static_shape(x)[-1], static_shape(dy)[-1]
    if window.is_pointwise:
        flat = tf.matmul(tf.reshape(x, [-1, channels]), tf.reshape(dy, [-1, outputs]), transpose_a=True)
        return tf.reshape(flat, [1, 1, channels, outputs])
    images = tf.transpose(axis.grow(x, window.margins), [3, 1, 2, 0])
    kernels = tf.transpose(dy, [1, 2, 0, 3])
    product = tf.nn.conv2d(images, kernels, window.dilations, "VALID", dilations=window.strides)
    return tf.transpose(product, [1, 2, 0, 3])
