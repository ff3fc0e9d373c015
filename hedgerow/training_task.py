"""What `hedgerow train` trains: a model of the zoo or a user's function, with the data for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from .errors import DatasetError, UsageError
from .models import losses, zoo
from .models.datasets import Dataset, keras_data
from .models.datasets.keras_data import PREFIX
from .models.datasets.split import holdout
from .models.losses import Loss
from .models.measures import Measure
from .models.zoo import CentralTraining, Federation
from .quantization.loading import load_model, read_examples

_OWN_TRAINING = CentralTraining(epochs=30, batch_size=16, learning_rate=2e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model and its data.

    Attributes:
        name: Of the model.
        build: Builds it anew.
        train: What it is trained on.
        held_out: What it is measured on, which it never trains on.
        loss: What it minimizes.
        training: The settings that hold where the user gives none.
        measure: The number of its field; None where accuracy or errors say enough.
        pretrain: What it learns before it sees any answer.
        draw: Draws into a folder what there is to see of this model alone.
    """

    name: str
    build: Callable[[], keras.Model]
    train: Dataset
    held_out: Dataset
    loss: str | Loss
    training: CentralTraining
    measure: Measure | None = None
    pretrain: Callable[[keras.Model], None] | None = None
    draw: Callable[[keras.Model, Dataset, Path], Path] | None = None


def find_task(source: str, data: str | None, *, held_out: float, loss: str | None, seed: int) -> Task:
    """The task that a user names.

    Args:
        source: A name of the zoo, or `package.module:function` that returns a Keras model.
        data: What `hedgerow convert --data` takes too, or one of Keras's sets, `keras:cifar10`; None for the
            zoo's own data.
        held_out: The share of `data` to measure on.
        loss: By its name; None for the zoo's, or the one that fits the answers.
        seed: Of the split and the zoo's data.

    Raises:
        UsageError: There is no such model, or a user's function came without data.
        DatasetError: The data cannot be used.
        QuantizationError: The data cannot be read.
    """
    if source in zoo.names() and data is None:
        task = _of_zoo(source, seed)
    else:
        task = _own(source, data, held_out, seed)
    # By its name the zoo's own loss keeps its settings, such as reading logits.
    return dataclasses.replace(task, loss=loss) if loss and loss != losses.get(task.loss).name else task


def _of_zoo(name: str, seed: int) -> Task:
    entry = zoo.get(name)
    federation: Federation = entry.federate(seed=seed)
    pretrain = entry.pretrain
    return Task(
        name=name,
        build=entry.build,
        train=federation.central if pretrain else federation.everything,
        held_out=federation.test,
        loss=entry.loss,
        training=entry.central,
        measure=entry.measure,
        pretrain=None if pretrain is None else lambda model: pretrain(model, federation, seed),
        draw=entry.draw,
    )


def _own(source: str, data: str | None, held_out: float, seed: int) -> Task:
    if data is None:
        raise UsageError(
            f"Expected one of {', '.join(zoo.names())}, or a function of yours with --data; received "
            f"{source!r} without data.",
            remedy="Write --data FOLDER, an .npz, a .csv, package.module:function or keras:cifar10.",
        )
    if Path(source).exists():
        raise UsageError(
            f"Expected package.module:function or a name of the zoo, received the file {source!r}.",
            remedy="Write a function that returns keras.saving.load_model(path), and name that.",
        )
    model = load_model(source)
    train, test = _read(data, model, held_out, seed)
    if tuple(train.x.shape[1:]) != tuple(model.inputs[0].shape[1:]):
        raise DatasetError(
            f"Expected examples of the shape {list(model.inputs[0].shape[1:])} that {source} takes, received "
            f"{list(train.x.shape[1:])}.",
            remedy="Change keras.Input, or the data.",
        )
    entry = zoo.get(source) if source in zoo.names() else None
    classes = train.y.dtype == np.int32
    return Task(
        name=entry.name if entry else source.rpartition(":")[2],
        build=entry.build if entry else lambda: load_model(source),
        train=train,
        held_out=test,
        loss=entry.loss if entry else "sparse_categorical_crossentropy" if classes else "mean_squared_error",
        training=dataclasses.replace(entry.central, augments_all=False) if entry else _OWN_TRAINING,
    )


def _read(data: str, model: keras.Model, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
    """What to train on and what to measure on; Keras's own sets come divided."""
    if data.startswith(PREFIX):
        return keras_data(data)
    x, y, labels = read_examples(data, tuple(model.inputs[0].shape[1:]), None)
    classes = np.issubdtype(y.dtype, np.integer)
    examples = Dataset(
        x.astype(np.int32 if np.issubdtype(model.inputs[0].dtype, np.integer) else np.float32),
        y.astype(np.int32 if classes else np.float32),
        labels if classes else (),
    )
    return _split(examples, held_out, seed)


def _split(examples: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Holds out a share of the examples, of each class its part; equal examples stay together.

    Raises:
        DatasetError: There are not two different examples.
    """
    _, first, twin = np.unique(
        examples.x.reshape(len(examples), -1), axis=0, return_index=True, return_inverse=True
    )
    if len(first) < 2:
        raise DatasetError(f"Expected at least 2 different examples, received {len(first)}.")
    strata = examples.y[first] if examples.y.ndim == 1 and examples.labels else np.zeros(len(first), np.int32)
    stay, held = holdout(strata, min(len(first) - 1, max(1, round(share * len(first)))), seed=seed)
    sides = (np.flatnonzero(np.isin(twin.reshape(-1), side)) for side in (stay, held))
    train, test = (examples.take(side) for side in sides)
    return train, test
