"""What the zoo knows about a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import keras

from ..baselines import NEAREST_NEIGHBOUR, Baseline
from ..datasets import Dataset, Federation
from ..losses import Loss
from ..measures import ACCURACY, ROC_AUC, Measure


class Federate(Protocol):
    """Deals the model's data set out to a federation."""

    def __call__(
        self, *, devices: int | None = None, alpha: float | None = None, seed: int = 0
    ) -> Federation:
        """The same seed gives the same federation.

        Args:
            devices: How many devices; None for the model's own number.
            alpha: Of the Dirichlet split; None for the model's own.
            seed: Of every choice.

        Raises:
            errors.UsageError: The data set cannot be split that way.
            errors.DatasetError: The data set is not installed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CentralTraining:
    """How the model is trained in one place, with Adam.

    Attributes:
        epochs: Passes over the central set.
        batch_size: Examples a step.
        learning_rate: Of the first step; it falls to zero along half a cosine.
        epochs_on_all: Passes over all examples in one place, central and the devices'; None for as many as
            make twice the steps.
        augments_all: Whether those examples are changed a little in every pass; see `augmentation`.
        augments_central: Whether the central examples are, where they are trained on alone.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    epochs_on_all: int | None = None
    augments_all: bool = False
    augments_central: bool = False

    def epochs_on(self, examples: int, central: int) -> int:
        """Passes over all `examples` in one place, of which `central` are the central ones."""
        return self.epochs_on_all or min(self.epochs, math.ceil(2 * self.epochs * central / examples))


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedTraining:
    """How the model is refined on devices.

    Attributes:
        rounds: Rounds of the strategy.
        local_epochs: Passes over a device's own examples in a round.
        batch_size: Examples a step; fixed in the trainable file.
        learning_rate: Of every step on the device.
        optimizer: The optimizer on the device, as `hedgerow.models.optimizers` calls it.
    """

    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the zoo with its data and the numbers that train it.

    Attributes:
        name: What the command line calls it.
        title: One line for people.
        data: Its data set, in a few words.
        build: Builds the Keras model; its weights follow Keras's global seed.
        federate: Deals its data out.
        central: How it is trained in one place.
        federated: How it is refined on devices.
        needs: The packages that bring its data.
        loss: As `hedgerow.models.losses` calls it, or such a loss.
        measure: The number that its field looks at.
        baseline: What it has to beat.
        pretrain: What it learns before it sees any answer.
        not_int8: Why it has no int8 file; empty where it has one.
        draw: Draws into a folder what there is to see of this model beside curves, filters, feature maps and
            confusion.
    """

    name: str
    title: str
    data: str
    build: Callable[[], keras.Model]
    federate: Federate
    central: CentralTraining
    federated: FederatedTraining
    needs: tuple[str, ...] = ("mlxtend",)
    loss: str | Loss = "sparse_categorical_crossentropy"
    measure: Measure = ACCURACY
    baseline: Baseline = NEAREST_NEIGHBOUR
    pretrain: Callable[[keras.Model, Federation, int], None] | None = None
    not_int8: str = ""
    draw: Callable[[keras.Model, Dataset, Path], Path] | None = None

    @property
    def classifies(self) -> bool:
        """Whether each example is of one class, so that accuracy and confusion say something of it."""
        return self.loss == "sparse_categorical_crossentropy" and self.measure in (ACCURACY, ROC_AUC)

    def create(self, seed: int) -> keras.Model:
        """The model with the initial weights of this seed. Sets the seeds of Python, numpy and Keras."""
        keras.utils.set_random_seed(seed)
        return self.build()
