"""A ConvNet that reads handwritten digits.

Two convolutions with pooling between them, in the manner of LeNet-5. Source: Y. LeCun et al.,
"Gradient-based learning applied to document recognition", Proceedings of the IEEE 86, 1998.
"""

from __future__ import annotations

import keras
from keras import layers

from ..datasets import federate_digits
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 28, 28, 1] in [0, 1] to the probabilities of ten digits, float32 [B, 10]."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu", name="strokes"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="shapes"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="features"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits-convnet",
    )


DIGITS_CONVNET = Entry(
    name="digits-convnet",
    title="2D ConvNet reading handwritten digits",
    data="MNIST, 5,000 images",
    build=build,
    federate=federate_digits,
    central=CentralTraining(
        epochs=20, batch_size=32, learning_rate=2e-3, epochs_on_all=20, augments_all=True
    ),
    federated=FederatedTraining(
        rounds=5, local_epochs=3, batch_size=16, learning_rate=0.01, optimizer="momentum"
    ),
)
