"""Cutting an image into the patches that a window reads."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from . import axis
from .window import Window, static_shape


def cut(x: tf.Tensor, window: Window) -> tf.Tensor:
    """The patches of an image, tap by tap: ``[B * outputs, taps * C]``, as filters of a convolution lie.

    Args:
        x: ``[B, H, W, C]``.
        window: What reads it.
    """
    if static_shape(x)[-1] == 1:
        return _by_convolution(x, window)
    if set(window.strides) == {1}:
        return _by_slices(x, window)
    return _by_depthwise(x, window)


def _by_slices(x: tf.Tensor, window: Window) -> tf.Tensor:
    """A copy per tap: the fastest where the copied runs are long and the stride is 1."""
    batch, channels = static_shape(x)[0], static_shape(x)[-1]
    x = axis.grow(x, window.margins)
    starts = [
        [tap * dilation for tap in range(k)]
        for k, dilation in zip(window.kernel, window.dilations, strict=True)
    ]
    size = [batch, *window.output, channels]
    taps = [tf.slice(x, [0, top, left, 0], size) for top, left in itertools.product(*starts)]
    return tf.reshape(tf.concat(taps, -1), [-1, window.taps * channels])


def _by_convolution(x: tf.Tensor, window: Window) -> tf.Tensor:
    """A convolution with a one-hot filter per tap: static weights reach the fastest kernels."""
    x, padding = _padded(x, window)
    patches = tf.nn.conv2d(x, _one_hot(window, 1), window.strides, padding, dilations=window.dilations)
    return tf.reshape(patches, [-1, window.taps])


def _by_depthwise(x: tf.Tensor, window: Window) -> tf.Tensor:
    """The same for several channels, which come out before the taps and are exchanged."""
    channels = static_shape(x)[-1]
    x, padding = _padded(x, window)
    strides = (1, *window.strides, 1)
    one_hot = _one_hot(window, channels)
    patches = tf.nn.depthwise_conv2d(x, one_hot, strides, padding, dilations=window.dilations)
    apart = tf.reshape(patches, [-1, channels, window.taps])
    return tf.reshape(tf.transpose(apart, [0, 2, 1]), [-1, window.taps * channels])


def _one_hot(window: Window, channels: int) -> np.ndarray:  # type: ignore[type-arg]
    one_hot = np.zeros((*window.kernel, channels, window.taps), np.float32)
    for tap, (row, column) in enumerate(itertools.product(*map(range, window.kernel))):
        one_hot[row, column, :, tap] = 1.0
    return one_hot


def _padded(x: tf.Tensor, window: Window) -> tuple[tf.Tensor, str]:
    if window.padding == "EXPLICIT":
        return axis.grow(x, window.pads), "VALID"
    return x, window.padding
