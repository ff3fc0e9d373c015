"""A ConvNet over time that tells shoulder exercises apart by the motion of a wristwatch.

Three temporal convolutions and an average over time. Source: Z. Wang, W. Yan, T. Oates, "Time series
classification from scratch with deep neural networks", IJCNN 2017.
"""

from __future__ import annotations

import keras
from keras import layers

from .entry import CentralTraining, Entry, FederatedTraining
from .motion_lstm import federate


def build() -> keras.Model:
    """float32 [B, 100, 6], standardised per axis, to the probabilities of seven exercises, float32 [B, 7]."""
    return keras.Sequential(
        [
            keras.Input((100, 6), name="motion"),
            layers.Conv1D(24, 8, strides=2, padding="same", activation="relu", name="jerks"),
            layers.Conv1D(32, 5, strides=2, padding="same", activation="relu", name="swings"),
            layers.Conv1D(32, 3, padding="same", activation="relu", name="movements"),
            layers.GlobalAveragePooling1D(name="over_time"),
            layers.Dense(7, activation="softmax", name="exercise"),
        ],
        name="motion-convnet",
    )


MOTION_CONVNET = Entry(
    name="motion-convnet",
    title="1D ConvNet telling exercises apart by a watch's motion, one device per person",
    data="watch recordings of 10 people",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=20, batch_size=32, learning_rate=3e-3),
    federated=FederatedTraining(
        rounds=10, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=("seglearn",),
)
