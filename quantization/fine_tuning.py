"""Quantization-aware fine-tuning: a trained model learns in a few epochs to live with int8's rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .fake_quant import copy_weights, fake_quantize

Array = NDArray[Any]


def fine_tune(
    model: keras.Model,
    x: Array | Sequence[Array],
    y: Array,
    *,
    loss: str | keras.losses.Loss = "sparse_categorical_crossentropy",
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> keras.Model:
    """Trains a copy of a model whose Dense and convolution layers round as int8 does.

    The result is a plain model of the same layers: convert it with the recipe `int8` like any other. The same
    model, examples and seed give the same weights.

    Args:
        model: A trained Sequential or functional model; it is not changed.
        x: Training examples `[N, ...]`, or one array per input.
        y: Their answers.
        loss: What to train; a Keras loss or its name.
        epochs: Passes over the examples.
        batch_size: Examples a step.
        learning_rate: Adam's; it falls to zero along half a cosine.
        seed: Of the order of the examples. Sets the seeds of Python, numpy and Keras.
        on_epoch: Called after each epoch with its number from 1 and its loss.

    Raises:
        UnsupportedLayerError: No layer of the model has a fake-quantized form.
        UsageError: A number is out of range.
    """
    if epochs < 1 or batch_size < 1 or not learning_rate > 0:
        raise UsageError(
            f"Expected epochs and batch_size from 1 and a learning_rate above 0, received {epochs}, "
            f"{batch_size}, {learning_rate}."
        )
    keras.utils.set_random_seed(seed)
    student = fake_quantize(model)
    steps = epochs * -(-len(y) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    student.compile(keras.optimizers.Adam(schedule), loss=loss)
    callbacks = []
    if on_epoch is not None:
        callbacks.append(
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, logs["loss"]))
        )
    inputs = x if hasattr(x, "shape") else list(x)
    student.fit(inputs, np.asarray(y), epochs=epochs, batch_size=batch_size, verbose=0, callbacks=callbacks)
    tuned = keras.models.clone_model(model)
    copy_weights(student, tuned)
    return tuned


def loss_for(model: keras.Model, y: Array) -> keras.losses.Loss:
    """The loss that goes with a model's last activation and its answers."""
    last = getattr(model.layers[-1], "activation", None)
    probabilities = last in (keras.activations.softmax, keras.activations.sigmoid)
    if not np.issubdtype(np.asarray(y).dtype, np.integer):
        return keras.losses.MeanSquaredError()
    if model.output_shape[-1] == 1 or last is keras.activations.sigmoid:
        return keras.losses.BinaryCrossentropy(from_logits=not probabilities)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)
