"""An autoencoder that notices exercises it was not trained on.

What squeezes through eight numbers and comes out as it went in is usual. Source: M. Sakurada, T. Yairi,
"Anomaly detection using autoencoders with nonlinear dimensionality reduction", MLSDA 2014.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from ..baselines import MEAN_EXAMPLE
from ..datasets import Dataset, Federation
from ..measures import ANOMALY_AUC
from .entry import CentralTraining, Entry, FederatedTraining
from .motion_lstm import federate as federate_windows

UNUSUAL = 2
"""How many of the seven exercises are unusual."""


def build() -> keras.Model:
    """float32 [B, 100, 6], standardised per axis, to the same, through 8 numbers."""
    return keras.Sequential(
        [
            keras.Input((100, 6), name="motion"),
            layers.Conv1D(16, 5, strides=2, padding="same", activation="relu", name="jerks"),
            layers.Conv1D(16, 5, strides=2, padding="same", activation="relu", name="swings"),
            layers.Flatten(name="flatten"),
            layers.Dense(8, name="code"),
            layers.Dense(25 * 16, activation="relu", name="unfold"),
            layers.Reshape((25, 16), name="series"),
            layers.Conv1DTranspose(16, 5, strides=2, padding="same", activation="relu", name="swings_again"),
            layers.Conv1DTranspose(6, 5, strides=2, padding="same", name="motion_again"),
        ],
        name="motion-anomaly",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """The recordings of motion-lstm: usual exercises to train on, and two that the seed draws held out."""
    windows = federate_windows(devices=devices, alpha=alpha, seed=seed)
    test = windows.test
    unusual = np.random.default_rng(seed).permutation(len(test.labels))[:UNUSUAL]
    flagged = np.isin(test.y, unusual).astype(np.int32)

    def usual(part: Dataset, seed: int) -> Dataset:
        kept = np.flatnonzero(~np.isin(part.y, unusual))
        groups = None if part.groups is None else part.groups[kept]
        return Dataset(part.x[kept], part.x[kept], groups=groups)

    return windows.map(
        usual, preprocessing=windows.preprocessing, test=Dataset(test.x, flagged, ("usual", "unusual"))
    )


MOTION_ANOMALY = Entry(
    name="motion-anomaly",
    title="Autoencoder noticing unusual exercises",
    data="watch recordings of 10 people",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=30, batch_size=32, learning_rate=3e-3),
    federated=FederatedTraining(
        rounds=8, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=("seglearn",),
    loss="mean_squared_error",
    measure=ANOMALY_AUC,
    baseline=MEAN_EXAMPLE,
)
