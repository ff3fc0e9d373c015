"""A 3D ConvNet that sees which digit moves where in a video of sixteen frames.

Convolutions over time and space together. Source: D. Tran et al., "Learning spatiotemporal features with 3D
convolutional networks", ICCV 2015.
"""

from __future__ import annotations

import keras
from keras import layers

from ..datasets import Federation, federate_digits, scenes
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 16, 20, 20, 1] to the probabilities of ten digits in four directions, float32 [B, 40]."""
    return keras.Sequential(
        [
            keras.Input((16, 20, 20, 1), name="video"),
            layers.Conv3D(12, 3, strides=(1, 2, 2), padding="same", activation="relu", name="motions"),
            layers.Conv3D(24, 3, strides=2, padding="same", activation="relu", name="moving_strokes"),
            layers.Conv3D(32, 3, strides=2, padding="same", activation="relu", name="moving_shapes"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="features"),
            layers.Dense(40, activation="softmax", name="gesture"),
        ],
        name="gesture-video",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Videos of each device's own digits; three of each digit, of those held out one."""
    digits = federate_digits(
        devices=4 if devices is None else devices,
        alpha=alpha,
        seed=seed,
        held_out=400,
        central=800,
        limit=2400,
    )
    return digits.map(
        lambda part, own_seed: scenes.videos(part, own_seed, count=3 * len(part)),
        preprocessing="16 frames of 20x20 grey pixels, x = pixel / 255",
        seed=seed,
        test=scenes.videos(digits.test, seed),
    )


GESTURE_VIDEO = Entry(
    name="gesture-video",
    title="3D ConvNet seeing which digit moves in which direction",
    data="videos of real MNIST digits",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=8, batch_size=16, learning_rate=3e-3, epochs_on_all=5),
    federated=FederatedTraining(
        rounds=3, local_epochs=1, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    not_int8="TFLite has no int8 kernel for CONV_3D",
)
