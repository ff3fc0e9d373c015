"""A ConvNet that tells faces from anything else.

Convolution and subsampling twice, then a decision, as in the first ConvNet for faces. Source: C. Garcia,
M. Delakis, "Convolutional face finder", IEEE PAMI 26, 2004.
"""

from __future__ import annotations

import keras
from keras import layers

from ..baselines import NEAREST_MEAN
from ..datasets import federate_faces
from ..measures import ROC_AUC
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 25, 25, 1] in [0, 1] to the probabilities of other and face, float32 [B, 2]."""
    return keras.Sequential(
        [
            keras.Input((25, 25, 1), name="image"),
            layers.Conv2D(8, 5, activation="relu", name="edges"),
            layers.MaxPooling2D(name="coarse"),
            layers.Conv2D(16, 3, activation="relu", name="parts"),
            layers.MaxPooling2D(name="coarser"),
            layers.Flatten(name="flatten"),
            layers.Dense(16, activation="relu", name="features"),
            layers.Dense(2, activation="softmax", name="face"),
        ],
        name="face-detector",
    )


FACE_DETECTOR = Entry(
    name="face-detector",
    title="ConvNet telling faces from other images",
    data="LFW subset, 200 images",
    build=build,
    federate=federate_faces,
    central=CentralTraining(epochs=40, batch_size=8, learning_rate=2e-3),
    federated=FederatedTraining(rounds=6, local_epochs=3, batch_size=8, learning_rate=1e-3, optimizer="adam"),
    needs=("scikit-image",),
    measure=ROC_AUC,
    baseline=NEAREST_MEAN,
)
