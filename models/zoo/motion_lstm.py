"""An LSTM that tells shoulder exercises apart by the motion of a wristwatch.

One layer of 32 units reads a window of two seconds; its last state names the exercise. Source: S. Hochreiter,
J. Schmidhuber, "Long short-term memory", Neural Computation 9, 1997.
"""

from __future__ import annotations

import keras
from keras import layers

from ..datasets import Federation, federate_motion, refuse_alpha
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 100, 6], standardised per axis, to the probabilities of seven exercises, float32 [B, 7]."""
    return keras.Sequential(
        [
            keras.Input((100, 6), name="motion"),
            layers.LSTM(32, name="memory"),
            layers.Dense(7, activation="softmax", name="exercise"),
        ],
        name="motion-lstm",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Watch recordings, one device per person; the split is the real one, so `alpha` has no meaning here."""
    refuse_alpha(alpha, "person")
    return federate_motion(devices=devices, seed=seed)


MOTION_LSTM = Entry(
    name="motion-lstm",
    title="LSTM telling exercises apart by a watch's motion, one device per person",
    data="watch recordings of 10 people",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=20, batch_size=32, learning_rate=4e-3),
    federated=FederatedTraining(
        rounds=15, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=("seglearn",),
)
