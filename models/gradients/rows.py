"""A convolution of stride 1 as one matrix product over windows of a single row.

Patches of a k x k window hold every element k * k times; most of the time goes into copying them. Here only
the k columns of a window are copied. The product computes, for every row, what it adds to each of the k rows
of outputs that read it, and k shifted sums make the output. The backward pass shares the copies likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from . import axis
from .product import multiply
from .window import Window, static_shape


def convolve(x: tf.Tensor, filters: tf.Tensor, window: Window) -> tf.Tensor:
    """A convolution, with a backward pass of the same form.

    Args:
        x: ``[B, H, W, C]``.
        filters: ``[kh, kw, C, outputs]``.
        window: How the filters read; of stride 1, with any dilation and padding.

    Returns:
        ``[B, *window.output, outputs]``.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(x: tf.Tensor, filters: tf.Tensor) -> tuple[tf.Tensor, object]:
        taps = _columns(x, window)
        y = _add_rows(_flat(taps) @ _by_row(filters), taps.shape, window)

        def backward(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            spread = _spread_rows(dy, window)
            d_filters = _from_rows(tf.matmul(_flat(taps), _flat(spread), transpose_a=True), filters.shape)
            d_taps = multiply(_flat(spread), _by_row(filters), transpose_b=True)
            return _add_columns(tf.reshape(d_taps, taps.shape), window), d_filters

        return y, backward

    return forward(x, filters)


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, static_shape(x)[-1]])


def _by_row(filters: tf.Tensor) -> tf.Tensor:
    """``[kh, kw, C, O]`` as ``[kw * C, kh * O]``."""
    rows, columns, channels, outputs = static_shape(filters)
    apart = tf.transpose(tf.reshape(filters, [rows, columns * channels, outputs]), [1, 0, 2])
    return tf.reshape(apart, [columns * channels, rows * outputs])


def _from_rows(matrix: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    rows, columns, channels, outputs = shape
    apart = tf.reshape(matrix, [columns * channels, rows, outputs])
    return tf.reshape(tf.transpose(apart, [1, 0, 2]), shape)


def _columns(x: tf.Tensor, window: Window) -> tf.Tensor:
    """The columns a window reads, for every row of the padded image: ``[B, H', W', kw * C]``."""
    x = axis.grow(x, window.margins)
    batch, height, _, channels = static_shape(x)
    size = [batch, height, window.output[1], channels]
    taps = [tf.slice(x, [0, 0, j * window.dilations[1], 0], size) for j in range(window.kernel[1])]
    return taps[0] if len(taps) == 1 else tf.concat(taps, -1)


def _add_rows(product: tf.Tensor, taps: Sequence[int], window: Window) -> tf.Tensor:
    """Adds up what each row contributes to an output: ``[B, outputs, O]``."""
    outputs = static_shape(product)[-1] // window.kernel[0]
    product = tf.reshape(product, [*taps[:3], -1])
    size = [taps[0], *window.output, outputs]
    pieces = [
        tf.slice(product, [0, i * window.dilations[0], 0, i * outputs], size) for i in range(window.kernel[0])
    ]
    return sum(pieces[1:], pieces[0])


def _spread_rows(dy: tf.Tensor, window: Window) -> tf.Tensor:
    """The adjoint of :func:`_add_rows`: ``[B, H', W', kh * O]``."""
    last = window.kernel[0] - 1
    shifts = [(i * window.dilations[0], (last - i) * window.dilations[0]) for i in range(last + 1)]
    return tf.concat([axis.grow(dy, [shift, (0, 0)]) for shift in shifts], -1) if last else dy


def _add_columns(d_taps: tf.Tensor, window: Window) -> tf.Tensor:
    """The adjoint of :func:`_columns`: ``[B, H, W, C]``."""
    batch, channels = static_shape(d_taps)[0], static_shape(d_taps)[-1] // window.kernel[1]
    (top, _), (left, _) = window.margins
    reach = window.extent[1] - 1
    wide = axis.grow(d_taps, [(0, 0), (reach, reach)])
    size = [batch, *window.size, channels]
    pieces = [
        tf.slice(wide, [0, top, reach - j * window.dilations[1] + left, j * channels], size)
        for j in range(window.kernel[1])
    ]
    return sum(pieces[1:], pieces[0])
