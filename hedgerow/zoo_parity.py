"""One step of gradient descent on a device runtime and in Keras: how far apart they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .models import export_trainable
from .models.datasets import Dataset
from .models.keras_loss import keras_loss
from .models.zoo import Entry
from .zoo_rounds import federate

_RANDOM = ("rate", "dropout", "recurrent_dropout", "stddev")


def parity_of_a_step(
    entry: Entry, trained: keras.Model, examples: Dataset, folder: Path
) -> tuple[float, float | None]:
    """Takes a step from the same weights on the same batch, by the device's file and by Keras.

    Random layers are still in both: their numbers come from different generators. Leaves `sgd.tflite` in the
    folder.

    Returns:
        The largest difference of a weight's change to Keras's, and that of Keras's own to the same in 64
        bits, each as a share of the largest change. The second is what rounding alone does; None where the
        model or its loss has no 64-bit form.
    """
    model = entry.build()
    model.set_weights(trained.get_weights())
    size = entry.federated.batch_size
    batch = examples.take(np.resize(np.random.default_rng(0).permutation(len(examples)), size))
    start = model.get_weights()
    with _still(model):
        export_trainable(model, folder / "sgd.tflite", batch_size=size, loss=entry.loss, optimizer="sgd")
        after, _ = federate(
            folder, folder / "sgd.tflite", start, [batch], rounds=1, epochs=1, learning_rate=1.0
        )
        changes = _changes(model, entry, batch)
    device = [new.astype(np.float64) - old for new, old in zip(after, start, strict=True)]
    return _distance(device, changes), _rounding(entry, start, batch, changes)


def _changes(model: keras.Model, entry: Entry, batch: Dataset) -> list[Any]:
    """What a step of Keras at a learning rate of 1 changes, in the order of the weights."""
    before = model.get_weights()
    floats = model.compute_dtype
    inputs = [
        tf.constant(array, floats if np.issubdtype(array.dtype, np.floating) else None)
        for array in (batch.x, *batch.more)
    ]
    with tf.GradientTape() as tape:
        outputs = model(inputs if batch.more else inputs[0], training=True)
        loss = tf.reduce_mean(keras_loss(entry.loss)(tf.constant(batch.y), outputs))
        loss += sum(tf.cast(one, loss.dtype) for one in model.losses)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        variable.assign_sub(tf.convert_to_tensor(gradient))
    return [new.astype(np.float64) - old for new, old in zip(model.get_weights(), before, strict=True)]


def _rounding(entry: Entry, start: list[Any], batch: Dataset, changes: list[Any]) -> float | None:
    floats = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        model = entry.build()
        model.set_weights(start)
        with _still(model):
            return _distance(changes, _changes(model, entry, batch))
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        return None
    finally:
        keras.config.set_floatx(floats)


def _distance(one: list[Any], reference: list[Any]) -> float:
    largest = max(float(np.abs(change).max()) for change in reference)
    differences = (
        float(np.abs(mine - theirs).max()) for mine, theirs in zip(one, reference, strict=True) if mine.size
    )
    return max(differences) / largest


@contextmanager
def _still(model: keras.Model) -> Iterator[None]:
    """The model without dropout and noise."""
    found = [
        (layer, name, vars(layer)[name])
        for layer in model._flatten_layers()
        for name in _RANDOM
        if isinstance(vars(layer).get(name), float)
    ]
    for layer, name, _ in found:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, value in found:
            setattr(layer, name, value)
