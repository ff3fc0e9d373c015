"""Hedgerow's losses as Keras takes them in `compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from . import losses
from .losses import Loss

KerasLoss: TypeAlias = keras.losses.Loss | Callable[[Any, Any], Any]


def keras_loss(spec: str | Loss) -> KerasLoss:
    """Keras's own loss of that kind where it has one, else one made of the same operators as the device's.

    Args:
        spec: A name of `losses.NAMES`, or a loss.

    Raises:
        LossError: There is no such loss.
    """
    loss = losses.get(spec)
    if isinstance(loss, losses.CTC):
        return keras.losses.CTC()
    if needs_full_batches(loss):
        return _of_batch(loss)
    return keras.losses.get({"class_name": _class_name(loss.name), "config": _config(loss)})


def needs_full_batches(spec: str | Loss) -> bool:
    """Whether a loss compares the examples of a batch, so that its size has to be known."""
    return isinstance(losses.get(spec), losses.Triplet | losses.Contrastive)


def _of_batch(loss: Loss) -> Callable[[Any, Any], Any]:
    def of_batch(y: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        labels = tf.reshape(tf.cast(y, tf.int32), [output.shape[0]])
        return loss.per_example(labels, output, tf.ones([output.shape[0]]))

    return of_batch


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _config(loss: Loss) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in ("from_logits", "delta", "label_smoothing"):
        value = getattr(loss, name, None)
        if value is not None and not (name == "from_logits" and not value):
            config[name] = value
    return config
