"""Max and average pooling over one, two or three spatial axes, one axis at a time.

A window's maximum is the maximum along one axis after the other, so a step needs only tensors of rank 3
and works for any number of axes. Where several elements of a window share the maximum the first in
row-major order gets the gradient, as in TensorFlow: an equality mask would count a flat background once
per element.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from . import axis
from .registry import gradient, lowering
from .window import Window, static_shape, window_of

_LOWEST = float(np.finfo(np.float32).min)


@lowering("MaxPool", note="a maximum per tap and axis; the gradient follows the signs of the differences")
def max_pool(op: tf.Operation, training: bool) -> tf.Tensor | None:
    """Pools by steps that a backward pass can follow. Inference keeps the built-in operator."""
    return _max_pool(op) if training else None


@lowering("MaxPool3D", note="a maximum per tap and axis, since TFLite has no such operator")
def max_pool_3d(op: tf.Operation, training: bool) -> tf.Tensor:
    """Pools by steps, in inference too."""
    return _max_pool(op)


@lowering("AvgPool3D", note="a sum per tap and axis, since TFLite has no such operator")
def average_pool_3d(op: tf.Operation, training: bool) -> tf.Tensor:
    """Pools by steps, in inference too."""
    x = op.inputs[0]
    window = window_of(op, x, op.get_attr("ksize")[1:-1])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def pool(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = x
        for spatial in range(len(window.size)):
            y = tf.add_n(_taps(y, spatial, window, 0.0))
        return _averaged(y, window), lambda dy: _average_backward(dy, window)

    return pool(x)


@gradient("AvgPool", note="the gradient divided by the window's size, spread over its taps axis by axis")
def average_pool(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """Divides by the number of elements that are not padding, as the forward pass does."""
    return _average_backward(dy, window_of(op, op.inputs[0], op.get_attr("ksize")[1:-1]))


def _max_pool(op: tf.Operation) -> tf.Tensor:
    x = op.inputs[0]
    window = window_of(op, x, op.get_attr("ksize")[1:-1])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def pool(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y, choices = x, []
        for spatial in reversed(range(len(window.size))):
            y, chosen = _maximum(_taps(y, spatial, window, _LOWEST))
            choices.append((spatial, chosen))

        def backward(dy: tf.Tensor) -> tf.Tensor:
            for spatial, chosen in reversed(choices):
                dy = _gather_taps(_shares(dy, chosen), spatial, window)
            return dy

        return y, backward

    return pool(x)


def _maximum(taps: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The maximum of the taps and, for each after the first, 1 where it beat all before it."""
    best, chosen = taps[0], []
    for tap in taps[1:]:
        chosen.append(tf.sign(tf.nn.relu(tap - best)))
        best = tf.maximum(best, tap)
    return best, chosen


def _shares(dy: tf.Tensor, chosen: list[tf.Tensor]) -> list[tf.Tensor]:
    """Splits a gradient among the taps: the last that beat all before it gets it."""
    shares = []
    for won in reversed(chosen):
        share = dy * won
        shares.append(share)
        dy = dy - share
    return [dy, *reversed(shares)]


def _average_backward(dy: tf.Tensor, window: Window) -> tf.Tensor:
    dy = _averaged(dy, window)
    for spatial in range(len(window.size)):
        dy = _gather_taps([dy] * window.kernel[spatial], spatial, window)
    return dy


def _averaged(y: tf.Tensor, window: Window) -> tf.Tensor:
    """Divides sums over windows by the number of their elements that are not padding."""
    counts = np.ones((), np.float32)
    for spatial, outputs in enumerate(window.output):
        start = np.arange(outputs) * window.strides[spatial] - window.pads[spatial][0]
        stop = np.minimum(start + window.kernel[spatial], window.size[spatial])
        counts = np.multiply.outer(counts, stop - np.maximum(start, 0))
    shares = (1.0 / counts).astype(np.float32).ravel()
    if np.all(shares == shares[0]):
        shares = shares[:1]
    # At rank 3, because a broadcast of rank 5 aborts tflite-runtime 2.14.
    shape, window_count = static_shape(y), int(np.prod(window.output))
    flat = tf.reshape(y, [shape[0], window_count, shape[-1]])
    return tf.reshape(flat * shares.reshape(1, -1, 1), shape)


def _taps(x: tf.Tensor, spatial: int, window: Window, filler: float) -> list[tf.Tensor]:
    """The elements of each window along one spatial axis, one tensor of the output's size per tap."""
    shape, position = static_shape(x), spatial + 1
    kernel, stride, outputs = window.kernel[spatial], window.strides[spatial], window.output[spatial]
    if _tiles(window, spatial):
        before, _, after = axis.around(shape, position)
        taps = tf.split(tf.reshape(x, [before * outputs, kernel, after]), kernel, axis=1)
        return [tf.reshape(tap, [*shape[:position], outputs, *shape[position + 1 :]]) for tap in taps]
    x = axis.extend(x, position, *window.pads[spatial], filler)
    return [axis.every(x, position, tap, outputs, stride) for tap in range(kernel)]


def _gather_taps(shares: list[tf.Tensor], spatial: int, window: Window) -> tf.Tensor:
    """The transpose of :func:`_taps`: adds each tap's share where it was read."""
    shape, position = static_shape(shares[0]), spatial + 1
    stride, size = window.strides[spatial], window.size[spatial]
    if _tiles(window, spatial):
        before, outputs, after = axis.around(shape, position)
        columns = [tf.reshape(share, [before * outputs, 1, after]) for share in shares]
        return tf.reshape(tf.concat(columns, axis=1), [*shape[:position], size, *shape[position + 1 :]])
    first, span = window.pads[spatial][0], (window.output[spatial] - 1) * stride + 1
    placed = []
    for tap, share in enumerate(shares):
        wide = axis.spread(share, position, stride)
        placed.append(axis.extend(wide, position, tap - first, size + first - tap - span))
    return tf.add_n(placed)


def _tiles(window: Window, axis: int) -> bool:
    """Whether the windows cover the axis without gaps, overlaps or padding."""
    kernel, size = window.kernel[axis], window.size[axis]
    return (
        kernel == window.strides[axis] and window.output[axis] * kernel == size and not any(window.pads[axis])
    )
