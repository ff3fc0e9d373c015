"""A feedforward network of rectified units, trained by gradient descent on small digits.

Two hidden layers. Sources: D. Rumelhart, G. Hinton, R. Williams, "Learning representations by
back-propagating errors", Nature 323, 1986; X. Glorot, A. Bordes, Y. Bengio, "Deep sparse rectifier neural
networks", 2011.
"""

from __future__ import annotations

import keras
from keras import layers

from ..baselines import NEAREST_MEAN
from ..datasets import federate_small_digits
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 8, 8, 1] in [0, 1] to the probabilities of ten digits, float32 [B, 10]."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Flatten(name="pixels"),
            layers.Dense(64, activation="relu", kernel_initializer="he_normal", name="strokes"),
            layers.Dense(32, activation="relu", kernel_initializer="he_normal", name="shapes"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits-mlp",
    )


DIGITS_MLP = Entry(
    name="digits-mlp",
    title="Feedforward ReLU network reading small digits",
    data="scikit-learn's digits, 8x8",
    build=build,
    federate=federate_small_digits,
    central=CentralTraining(epochs=40, batch_size=16, learning_rate=3e-3),
    federated=FederatedTraining(rounds=8, local_epochs=2, batch_size=16, learning_rate=0.05, optimizer="sgd"),
    needs=("scikit-learn",),
    baseline=NEAREST_MEAN,
)
