"""Batch normalization in training, with a backward pass that reads the batch as few times as it can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

_exporting = threading.RLock()


@contextmanager
def short_normalization() -> Iterator[None]:
    """Lets ``keras.layers.BatchNormalization`` write its training step with a backward pass by hand.

    Automatic differentiation goes through the mean and the variance apart, which makes nine passes over the
    batch, some of them broadcasts that the fast kernels do not take. By hand there are five. A layer with a
    mask, with renormalization or with channels that are not last stays as Keras writes it.

    On leaving, also by an error, Keras is as before. Only the thread that entered is affected.
    """
    with _exporting:
        owner, thread = keras.layers.BatchNormalization, threading.get_ident()
        original = vars(owner)["call"]

        def call(layer: keras.Layer, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> Any:
            trains = training and layer.trainable and mask is None
            if threading.get_ident() == thread and trains and _is_plain(layer, inputs):
                return _call(layer, inputs)
            return original(layer, inputs, training=training, mask=mask)

        owner.call = call
        try:
            yield
        finally:
            owner.call = original


def _is_plain(layer: keras.Layer, inputs: tf.Tensor) -> bool:
    rank = inputs.shape.rank
    last = rank > 1 and layer.axis in (-1, rank - 1)
    own = type(layer)._moments is keras.layers.BatchNormalization._moments
    return last and own and not layer.renorm and inputs.dtype == tf.float32


def _call(layer: keras.Layer, inputs: tf.Tensor) -> tf.Tensor:
    channels = inputs.shape[-1]
    gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones([channels])
    beta = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros([channels])
    y, mean, variance = normalize(inputs, gamma, beta, layer.epsilon)
    for statistic, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        statistic.assign(statistic * layer.momentum + value * (1.0 - layer.momentum))
    return y


def normalize(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes a batch by its own statistics (Ioffe and Szegedy, 2015).

    Args:
        x: ``[B, ..., C]``.
        gamma: ``[C]``.
        beta: ``[C]``.
        epsilon: Added to the variance.

    Returns:
        The output, and the mean and the (biased) variance ``[C]``, which are taken as constants when the
        output is differentiated: moving statistics have no gradient.
    """
    count = int(x.shape.num_elements() // x.shape[-1])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], object]:
        mean = _sum(x) * (1.0 / count)
        centred = x - mean
        variance = _sum(centred * centred) * (1.0 / count)
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse

        def backward(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            d_beta, along = _sum(dy), _sum(dy * centred)
            pull = scale * inverse * inverse * along * (1.0 / count)
            dx = dy * scale - (centred * pull + scale * d_beta * (1.0 / count))
            return dx, along * inverse, d_beta

        return (centred * scale + beta, mean, variance), backward

    y, mean, variance = forward(x, gamma, beta)
    return y, mean, variance


def _sum(x: tf.Tensor) -> tf.Tensor:
    """The sum over all axes but the last, over images before the batch: that is how the kernels are fast."""
    shape = x.shape.as_list()
    if len(shape) > 4:
        x = tf.reshape(x, [-1, *shape[-3:]])
    if len(shape) > 2:
        x = tf.reduce_sum(x, list(range(1, min(len(shape), 4) - 1)))
    return tf.reduce_sum(x, [0])
