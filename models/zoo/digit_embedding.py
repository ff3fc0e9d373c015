"""An embedding in which digits of one class are near, also of classes that training never saw.

The triplet loss on unit vectors, with the hardest examples of each batch. Sources: Y. Taigman et al.,
"DeepFace", CVPR 2014; F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet", CVPR 2015.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from ..baselines import RAW_PIXELS
from ..datasets import Dataset, Federation, deal, mnist
from ..losses import Triplet
from ..measures import EQUAL_ERROR_RATE
from .entry import CentralTraining, Entry, FederatedTraining

KNOWN = 7
"""Digits 0 to 6 are trained on; pairs of 7, 8 and 9 are verified."""


def build() -> keras.Model:
    """float32 [B, 28, 28, 1] in [0, 1] to a vector of length 1, float32 [B, 32]."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="strokes"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="shapes"),
            layers.MaxPooling2D(name="coarse"),
            layers.Conv2D(48, 3, padding="same", activation="relu", name="parts"),
            layers.MaxPooling2D(name="coarser"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.3, name="dropout"),
            layers.Dense(32, name="embedding"),
            layers.UnitNormalization(name="direction"),
        ],
        name="digit-embedding",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Digits 0 to 6 over 6 devices of mixed classes, and 300 examples of the others to verify."""
    digits = mnist()
    seen, unseen = (np.flatnonzero(where) for where in (digits.y < KNOWN, digits.y >= KNOWN))
    known = digits.take(seen)
    return deal(
        Dataset(known.x, known.y, digits.labels[:KNOWN]),
        devices=6 if devices is None else devices,
        alpha=1.0 if alpha is None else alpha,
        seed=seed,
        held_out=digits.take(np.sort(np.random.default_rng(seed).choice(unseen, 300, replace=False))),
        central=1000,
        calibration=150,
        preprocessing="28x28 grey images, white ink on black, x = pixel / 255",
    )


DIGIT_EMBEDDING = Entry(
    name="digit-embedding",
    title="Embedding that verifies digits of classes it never saw",
    data="MNIST; 0-6 trained on, 7-9 verified",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=20, batch_size=64, learning_rate=1e-3),
    federated=FederatedTraining(
        rounds=5, local_epochs=1, batch_size=32, learning_rate=1e-3, optimizer="adam"
    ),
    # Layers and mining: chosen by verifying two of the seven known digits after training on the other five.
    loss=Triplet(margin=0.5, mining="hard"),
    measure=EQUAL_ERROR_RATE,
    baseline=RAW_PIXELS,
)
