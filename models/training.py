"""Central training: a Keras model on the examples that are in one place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras

from .datasets import Dataset


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: From 1.
        loss: Mean training loss over the epoch.
        accuracy: Share of training examples that were classified rightly, while the weights still moved.
        validation_accuracy: The same on the validation set after the epoch; None without one.
        seconds: How long it took.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What central training came to, epoch by epoch."""

    epochs: tuple[EpochResult, ...]

    @property
    def seconds(self) -> float:
        """How long all epochs took."""
        return sum(epoch.seconds for epoch in self.epochs)


def train_centrally(
    model: keras.Model,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    validation: Dataset | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> TrainingResult:
    """Trains a classifier with Adam, its rate falling to zero along half a cosine.

    Gradients are clipped to norm 1: without it an LSTM over a hundred steps can lose in one step what it
    learned in an epoch. The same seed, initial weights and machine give the same result. Sets the seeds of
    Python, numpy and Keras.

    Args:
        model: Ends in a softmax; compiled here and trained in place.
        data: The central set.
        epochs: Passes over the data.
        batch_size: Examples a step.
        learning_rate: Of the first step.
        seed: Of the order of the examples, and of dropout.
        validation: Evaluated after every epoch.
        on_epoch: Called after every epoch.
    """
    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(data) / batch_size)
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps), global_clipnorm=1.0
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    progress = _Progress(on_epoch)
    model.fit(
        data.x,
        data.y,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=None if validation is None else (validation.x, validation.y),
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=progress.begin, on_epoch_end=progress.end)],
        verbose=0,
    )
    return TrainingResult(tuple(progress.results))


class _Progress:
    """Collects what every epoch came to, and tells it."""

    def __init__(self, on_epoch: Callable[[EpochResult], None] | None) -> None:
        self.results: list[EpochResult] = []
        self._on_epoch = on_epoch
        self._began = 0.0

    def begin(self, epoch: int, logs: dict[str, float]) -> None:
        self._began = time.perf_counter()

    def end(self, epoch: int, logs: dict[str, float]) -> None:
        result = EpochResult(
            epoch=epoch + 1,
            loss=logs["loss"],
            accuracy=logs["accuracy"],
            validation_accuracy=logs.get("val_accuracy"),
            seconds=time.perf_counter() - self._began,
        )
        self.results.append(result)
        if self._on_epoch:
            self._on_epoch(result)
