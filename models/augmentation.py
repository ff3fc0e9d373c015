"""Augmentation of batches in `tf.data`: what leaves the answer as it is changes the example a little.

Every operator draws from a seed of its own, so that the same step of the same run sees the same examples.
"""

from __future__ import annotations

import tensorflow as tf

from .batches import Augment

SHIFT_SHARE = 0.1
NOISE_SHARE = 0.05
SCALE_SHARE = 0.1


def for_shape(shape: tuple[int, ...], *, mirror: bool = False) -> Augment:
    """What suits a shape: images [H, W, C] are shifted and lit, series [T, F] scaled and jittered.

    Args:
        shape: Of one example.
        mirror: Whether an image means the same when left and right are exchanged; digits do not.
    """
    if len(shape) == 3:
        return lambda x, seed: _images(x, seed, mirror=mirror)
    return _series


def _images(x: tf.Tensor, seed: tf.Tensor, *, mirror: bool) -> tf.Tensor:
    """Shifts each image by up to a tenth of its size and lights it up or down by a tenth."""
    height, width = x.shape[1], x.shape[2]
    down, right = max(1, round(SHIFT_SHARE * height)), max(1, round(SHIFT_SHARE * width))
    padded = tf.pad(x, [[0, 0], [down, down], [right, right], [0, 0]], mode="SYMMETRIC")
    seeds = _seeds(seed, 4)
    count = tf.shape(x)[0]
    tops = tf.random.stateless_uniform([count], seeds[0], 0, 2 * down + 1, tf.int32)
    lefts = tf.random.stateless_uniform([count], seeds[1], 0, 2 * right + 1, tf.int32)
    rows = tops[:, None] + tf.range(height)
    columns = lefts[:, None] + tf.range(width)
    x = tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    light = tf.random.stateless_uniform([count, 1, 1, 1], seeds[2], 1 - SCALE_SHARE, 1 + SCALE_SHARE)
    if mirror:
        turned = tf.random.stateless_uniform([count, 1, 1, 1], seeds[3]) < 0.5
        x = tf.where(turned, tf.reverse(x, [2]), x)
    return x * light


def _series(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Scales each series by up to a tenth and adds noise of a twentieth of its own deviation."""
    seeds = _seeds(seed, 2)
    ones = [1] * (len(x.shape) - 1)
    scale = tf.random.stateless_uniform([tf.shape(x)[0], *ones], seeds[0], 1 - SCALE_SHARE, 1 + SCALE_SHARE)
    noise = tf.random.stateless_normal(tf.shape(x), seeds[1])
    deviation = tf.math.reduce_std(x, axis=list(range(1, len(x.shape))), keepdims=True)
    return x * scale + NOISE_SHARE * deviation * noise


def _seeds(seed: tf.Tensor, count: int) -> tf.Tensor:
    return tf.random.experimental.stateless_split(seed, count)
