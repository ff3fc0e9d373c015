"""Central training: a Keras model on the examples that are in one place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..errors import UsageError
from . import losses
from .backup import Backup
from .batches import Augment, batches, steps_of
from .datasets import Dataset
from .distribution import prepare
from .keras_loss import keras_loss, needs_full_batches
from .losses import Loss

SCHEDULES = ("cosine", "warmup", "exponential", "constant")
OPTIMIZERS = ("adam", "adamw", "sgd", "momentum")
WARMUP_SHARE = 0.1
EXPONENTIAL_END = 0.01


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: From 1.
        loss: Mean training loss over the epoch.
        accuracy: Share of training examples that were classified rightly, while the weights still moved; 0 of
            what is no classifier.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """How a training outlives its process and knows when to stop.

    Attributes:
        folder: Where its state is kept.
        source: Where to resume from, if not there.
        resume: Go on from that state; otherwise it is overwritten.
        patience: Epochs without a smaller validation loss before the training stops; None for all epochs. The
            weights of the best epoch are kept.
    """

    folder: Path
    source: Path | None = None
    resume: bool = False
    patience: int | None = None


def train_centrally(
    model: keras.Model,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    loss: str | Loss = "sparse_categorical_crossentropy",
    optimizer: str = "adam",
    schedule: str = "cosine",
    clip: float = 1.0,
    validation: Dataset | None = None,
    augment: Augment | None = None,
    durability: Durability | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> TrainingResult:
    """Trains a model; with `tf.distribute`, call it in the strategy's scope.

    Gradients are clipped: without it an LSTM over a hundred steps can lose in one step what it learned in an
    epoch. The same seed, initial weights and machine give the same result, also of a training
    that was killed and resumed. Sets the seeds of Python, numpy and Keras.

    Args:
        model: Compiled here and trained in place.
        data: The central set.
        epochs: Passes over the data.
        batch_size: Examples a step, over all replicas; a loss that compares them, and a strategy of several
            replicas, leave out the last, shorter batch.
        learning_rate: Of the first step, or after the warm-up.
        seed: Of the order of the examples, of augmentation, and of dropout.
        loss: As `losses` calls it, or such a loss.
        optimizer: One of `OPTIMIZERS`.
        schedule: One of `SCHEDULES`: `cosine` falls to zero along half a cosine, `warmup` rises for a tenth
            of the steps first, `exponential` falls to a hundredth.
        clip: Largest global norm of the gradients, 0 for any. Keras clips before replicas add up theirs, so
            that each may have its part of the norm; that is a little stricter than one replica is.
        validation: Evaluated after every epoch.
        augment: Changes each batch; see `augmentation`.
        durability: Keeps the state of the training on the disk.
        callbacks: Further ones of Keras's.
        on_epoch: Called after every epoch.

    Raises:
        UsageError: An option is out of its range, or the state on the disk is of another training.
    """
    if not len(data):
        raise UsageError("Expected examples to train on, received none.")
    keras.utils.set_random_seed(seed)
    batch_size = min(batch_size, len(data))
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    full = needs_full_batches(loss) or replicas > 1
    steps = steps_of(data, batch_size, full=full)
    classifies = losses.get(loss).name == "sparse_categorical_crossentropy"
    model.compile(
        make_optimizer(optimizer, learning_rate, schedule, epochs * steps, clip=clip / replicas),
        keras_loss(loss),
        metrics=_metrics(model) if classifies else [],
    )
    first, backup = 0, None
    if durability is not None:
        settings = {
            "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
            "optimizer": optimizer, "schedule": schedule, "patience": durability.patience,
            "examples": len(data), "augmented": augment is not None,
        }  # fmt: skip
        monitor = "loss" if validation is None else "val_loss"
        backup = Backup(
            durability.folder,
            settings=settings,
            steps=steps,
            monitor=monitor,
            patience=durability.patience,
            source=durability.source,
        )
        first = backup.restore(model) if durability.resume else 0
    prepare(model, data, batch_size)
    _make_variables(model, data, batch_size)
    progress = _Progress(on_epoch)
    if first < epochs and not (backup and backup.is_over()):
        model.fit(
            batches(
                data,
                batch_size=batch_size,
                epochs=range(first, epochs),
                seed=seed,
                full=full,
                augment=augment,
            ),
            epochs=epochs,
            initial_epoch=first,
            steps_per_epoch=steps,
            validation_data=None if validation is None else _validation(validation, batch_size),
            callbacks=[_SeededEpochs(seed), progress, *([backup] if backup else []), *callbacks],
            shuffle=False,
            verbose=0,
        )
    if backup and backup.history:
        backup.restore_best(model)
        progress.results = [_result(number, logs) for number, logs in enumerate(backup.history)]
    return TrainingResult(tuple(progress.results))


def make_optimizer(
    name: str, learning_rate: float, schedule: str, steps: int, *, clip: float = 1.0
) -> keras.optimizers.Optimizer:
    """Keras's optimizer with a schedule over so many steps, and gradients of norm `clip` at most.

    Raises:
        UsageError: There is no such optimizer or schedule.
    """
    schedules = keras.optimizers.schedules
    norm = clip or None
    warmup = round(WARMUP_SHARE * steps)
    rates: dict[str, Callable[[], Any]] = {
        "constant": lambda: learning_rate,
        "cosine": lambda: schedules.CosineDecay(learning_rate, steps),
        "warmup": lambda: schedules.CosineDecay(
            0.0, steps - warmup, warmup_target=learning_rate, warmup_steps=warmup
        ),
        "exponential": lambda: schedules.ExponentialDecay(learning_rate, steps, EXPONENTIAL_END),
    }
    makers: dict[str, Callable[[Any], keras.optimizers.Optimizer]] = {
        "adam": lambda rate: keras.optimizers.Adam(rate, global_clipnorm=norm),
        "adamw": lambda rate: keras.optimizers.AdamW(rate, global_clipnorm=norm),
        "sgd": lambda rate: keras.optimizers.SGD(rate, global_clipnorm=norm),
        "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=norm),
    }
    if name not in makers or schedule not in rates:
        raise UsageError(
            f"Expected an optimizer of {', '.join(OPTIMIZERS)} and a schedule of {', '.join(SCHEDULES)}, "
            f"received {name!r} and {schedule!r}."
        )
    return makers[name](rates[schedule]())


def _make_variables(model: keras.Model, data: Dataset, batch_size: int) -> None:
    """Makes the variables of optimizer and metrics: a step that makes them when it is traced is traced twice.

    With a strategy Keras does so itself.
    """
    if tf.distribute.has_strategy():
        return
    batch = data.take(np.arange(batch_size))
    inputs = [tf.constant(array) for array in (batch.x, *batch.more)]
    model._symbolic_build(data_batch=(inputs if batch.more else inputs[0], tf.constant(batch.y)))


def _metrics(model: keras.Model) -> list[Any]:
    classes = model.outputs[0].shape[-1] if getattr(model, "outputs", None) else 0
    top_5 = [keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy")] if classes > 5 else []
    return ["accuracy", *top_5]


def _validation(data: Dataset, batch_size: int) -> tf.data.Dataset:
    inputs = tuple(data.inputs) if isinstance(data.inputs, list) else data.inputs
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices((inputs, data.y)).batch(batch_size).with_options(options)


class _SeededEpochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets what layers draw follow from the seed and the epoch: a backup does not keep generators."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        layers = (layer for layer in self.model._flatten_layers() if hasattr(layer, "seed_generator"))
        for place, layer in enumerate(layers):
            if layer.seed_generator is not None:
                layer.seed_generator.state.assign([self._seed + 1000 * place, epoch << 20])


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Collects what every epoch came to, and tells it."""

    def __init__(self, on_epoch: Callable[[EpochResult], None] | None) -> None:
        super().__init__()
        self.results: list[EpochResult] = []
        self._on_epoch = on_epoch
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        logs["seconds"] = time.perf_counter() - self._began
        self.results.append(_result(epoch, logs))
        if self._on_epoch:
            self._on_epoch(self.results[-1])


def _result(epoch: int, logs: dict[str, float]) -> EpochResult:
    return EpochResult(
        epoch=epoch + 1,
        loss=logs["loss"],
        accuracy=logs.get("accuracy", 0.0),
        validation_accuracy=logs.get("val_accuracy"),
        seconds=logs.get("seconds", 0.0),
    )
