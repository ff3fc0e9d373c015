"""One central training: from the options to a `.keras` file, its numbers and its pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import msgspec
import numpy as np

from .errors import ModelFileError, UsageError
from .models import augmentation, evaluation, losses, pictures, summaries
from .models.datasets import Dataset
from .models.distribution import Distribution, distribute
from .models.measures import accuracy, top_accuracy
from .models.training import Durability, EpochResult, TrainingResult, train_centrally
from .training_task import Task, find_task


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What `hedgerow train` was asked for, in its words; None where the model's own number holds."""

    source: str
    out: Path
    data: str | None = None
    gpus: str | None = None
    mixed_precision: bool = False
    resume: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimizer: str = "adam"
    schedule: str = "cosine"
    loss: str | None = None
    clip: float = 1.0
    patience: int | None = None
    augment: bool = False
    mirror: bool = False
    held_out: float = 0.2
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.out.suffix != ".keras":
            raise UsageError(f"Expected --out to end in .keras, received {str(self.out)!r}.")
        if not 0 < self.held_out < 1:
            raise UsageError(f"Expected --held-out between 0 and 1, received {self.held_out}.")

    @property
    def folder(self) -> Path:
        """Where everything about the training goes, beside the model."""
        return self.out.with_suffix(".training")


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json` of a training.

    Attributes:
        model: The file that was written.
        name: Of the model.
        parameters: How many weights it has.
        train_examples: How many it was trained on.
        held_out_examples: How many it was measured on.
        epochs: How many were made; fewer than asked for where the patience was over.
        best_epoch: The one whose weights were kept.
        metrics: Of the kept weights on the held-out examples.
        replicas: How many parts each batch was divided into.
        pictures: What was drawn.
        history: What each epoch came to.
    """

    model: str
    name: str
    parameters: int
    train_examples: int
    held_out_examples: int
    epochs: int
    best_epoch: int
    metrics: dict[str, float]
    replicas: int
    pictures: tuple[str, ...]
    history: tuple[EpochResult, ...]


def run_training(
    options: TrainOptions,
    *,
    on_start: Callable[[Task, Distribution, int], None] | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> TrainingReport | None:
    """Trains as asked and writes the model.

    Args:
        options: What was asked for.
        on_start: Called with the task, where it runs, and the number of epochs.
        on_epoch: Called after every epoch.

    Returns:
        The report; None in the workers that leave the writing to the chief.

    Raises:
        HedgerowError: The model, the data or an option cannot be used, or the file cannot be written.
    """
    distribution = distribute(options.gpus)
    keras.utils.set_random_seed(options.seed)
    if options.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    task = find_task(
        options.source, options.data, held_out=options.held_out, loss=options.loss, seed=options.seed
    )
    epochs = options.epochs or task.training.epochs
    if distribution.chief:
        _make_folder(options)
        if on_start:
            on_start(task, distribution, epochs)
    with distribution.strategy.scope(), _precision(options, distribution):
        keras.utils.set_random_seed(options.seed)
        trained = task.build()
        if task.pretrain:
            task.pretrain(trained)
        result = _train(trained, task, options, distribution, epochs, on_epoch)
    if not distribution.chief:
        return None
    # One replica that computes in float32, whatever the training did, so that it can be converted.
    model = task.build()
    model.set_weights(trained.get_weights())
    return _write(model, task, options, result, distribution)


def _train(
    model: keras.Model,
    task: Task,
    options: TrainOptions,
    distribution: Distribution,
    epochs: int,
    on_epoch: Callable[[EpochResult], None] | None,
) -> TrainingResult:
    worker = "" if distribution.chief else f"-{os.getpid()}"
    backup = options.folder / f"backup{worker}"
    try:
        return train_centrally(
            model,
            task.train,
            epochs=epochs,
            batch_size=options.batch_size or task.training.batch_size,
            learning_rate=options.learning_rate or task.training.learning_rate,
            seed=options.seed,
            loss=losses.for_model(task.loss, model),
            optimizer=options.optimizer,
            schedule=options.schedule,
            clip=options.clip,
            validation=_validation(task),
            augment=augmentation.for_shape(task.train.x.shape[1:], mirror=options.mirror)
            if options.augment or task.training.augments_all
            else None,
            durability=Durability(
                folder=backup,
                source=options.folder / "backup",
                resume=options.resume,
                patience=options.patience,
            ),
            callbacks=[summaries.EpochSummaries(options.folder / "summaries")] if distribution.chief else [],
            on_epoch=on_epoch if distribution.chief else None,
        )
    finally:
        if worker:
            shutil.rmtree(backup, ignore_errors=True)


def _validation(task: Task) -> Dataset | None:
    """The held-out examples, where their answers are of the kind that the loss compares with."""
    same = task.held_out.y.shape[1:] == task.train.y.shape[1:]
    known = len(task.held_out.labels) == len(task.train.labels)
    return task.held_out if same and known and task.held_out.y.dtype == task.train.y.dtype else None


@contextmanager
def _precision(options: TrainOptions, distribution: Distribution) -> Iterator[None]:
    """16-bit arithmetic, 32-bit weights: float16 on GPUs, bfloat16 on processors, which lack the former."""
    before = keras.mixed_precision.global_policy()
    if options.mixed_precision:
        keras.mixed_precision.set_global_policy("mixed_float16" if distribution.on_gpu else "mixed_bfloat16")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _make_folder(options: TrainOptions) -> None:
    try:
        if not options.resume:
            shutil.rmtree(options.folder / "backup", ignore_errors=True)
            shutil.rmtree(options.folder / "summaries", ignore_errors=True)
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"Expected a folder that can be made at {options.folder}, received: {error.strerror}.",
            remedy="Name another place with --out.",
        ) from error


def _write(
    model: keras.Model, task: Task, options: TrainOptions, result: TrainingResult, distribution: Distribution
) -> TrainingReport:
    partial = options.out.with_suffix(".partial.keras")
    model.save(partial)
    partial.replace(options.out)
    predict = evaluation.predictor(model)
    drawn: list[Path | None] = []
    metrics: dict[str, float] = {}
    test = task.held_out
    history = msgspec.json.decode((options.folder / "backup" / "history.json").read_bytes())
    drawn.append(pictures.draw_curves(history, options.folder / "curves.svg"))
    drawn.append(pictures.draw_filters(model, options.folder / "filters.svg"))
    first = test.take(np.arange(1)).inputs
    drawn.append(pictures.draw_feature_maps(model, first, options.folder / "feature-maps.svg"))
    if task.draw is not None:
        drawn.append(task.draw(model, test, options.folder))
    if task.measure is not None:
        metrics[task.measure.name] = task.measure.of(predict, test)
    if test.y.ndim == 1 and losses.get(task.loss).name == "sparse_categorical_crossentropy":
        outputs = predict(test.x, *test.more)
        metrics["accuracy"] = accuracy(outputs, test.y)
        if outputs.shape[-1] > 5:
            metrics["top-5 accuracy"] = top_accuracy(outputs, test.y, k=5)
        if test.labels and len(test.labels) <= 60:
            confusion = evaluation.evaluate(outputs, test.y).confusion
            drawn.append(pictures.draw_confusion(confusion, test.labels, options.folder / "confusion.svg"))
    elif task.measure is None:
        errors = predict(test.x).reshape(len(test), -1) - test.y.reshape(len(test), -1)
        metrics |= {"mean absolute error": float(np.abs(errors).mean())}
    monitor = "val_loss" if history and "val_loss" in history[0] else "loss"
    report = TrainingReport(
        model=str(options.out),
        name=task.name,
        parameters=model.count_params(),
        train_examples=len(task.train),
        held_out_examples=len(test),
        epochs=len(result.epochs),
        best_epoch=1 + min(range(len(history)), key=lambda epoch: history[epoch][monitor]),
        metrics=metrics,
        replicas=distribution.replicas,
        pictures=tuple(str(path) for path in drawn if path is not None),
        history=result.epochs,
    )
    (options.folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return report
