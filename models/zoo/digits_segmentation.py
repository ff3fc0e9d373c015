"""A U-Net that labels every pixel of a cluttered page with the digit it belongs to.

A contracting and an expanding path with a bridge at each resolution. Source: O. Ronneberger, P. Fischer, T.
Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
"""

from __future__ import annotations

import keras
from keras import layers

from ..baselines import BRIGHT_PIXELS
from ..datasets import Federation, federate_digits, scenes
from ..measures import MEAN_IOU
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 40, 40, 1] to the probabilities of page and ten digits at each pixel, [B, 40, 40, 11]."""
    page = keras.Input((40, 40, 1), name="page")
    fine = _convolutions(page, 12, "fine")
    middle = _convolutions(layers.MaxPooling2D(name="down1")(fine), 24, "middle")
    coarse = _convolutions(layers.MaxPooling2D(name="down2")(middle), 48, "coarse")
    x = layers.Concatenate(name="bridge1")([layers.Conv2DTranspose(24, 2, 2, name="up1")(coarse), middle])
    x = _convolutions(x, 24, "middle_again")
    x = layers.Concatenate(name="bridge2")([layers.Conv2DTranspose(12, 2, 2, name="up2")(x), fine])
    x = _convolutions(x, 12, "fine_again")
    pixels = layers.Conv2D(11, 1, activation="softmax", name="pixel")(x)
    return keras.Model(page, pixels, name="digits-segmentation")


def _convolutions(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    for number in (1, 2):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"{name}{number}",
        )(x)
    return x


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Pages composed of each device's own digits."""
    digits = federate_digits(
        devices=4 if devices is None else devices,
        alpha=alpha,
        seed=seed,
        held_out=400,
        central=800,
        limit=2400,
    )
    return digits.map(scenes.pages, preprocessing="40x40 grey pixels, x = pixel / 255", seed=seed)


DIGITS_SEGMENTATION = Entry(
    name="digits-segmentation",
    title="U-Net labelling the pixels of digits on cluttered pages",
    data="pages of real MNIST digits",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=16, batch_size=4, learning_rate=3e-3, epochs_on_all=8),
    federated=FederatedTraining(rounds=4, local_epochs=2, batch_size=8, learning_rate=1e-3, optimizer="adam"),
    measure=MEAN_IOU,
    baseline=BRIGHT_PIXELS,
)
