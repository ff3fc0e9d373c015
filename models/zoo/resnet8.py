"""ResNet-8, MLPerf Tiny's image classifier: three residual stacks; here on MNIST padded to 32x32 pixels.

Sources: K. He et al., "Deep residual learning for image recognition", CVPR 2016; C. Banbury et al., "MLPerf
Tiny benchmark", 2021.
"""

from __future__ import annotations

import keras

from .. import architectures
from ..datasets import Federation, federate_digits
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 32, 32, 1] in [0, 1] to the probabilities of ten digits, float32 [B, 10]."""
    return architectures.resnet8((32, 32, 1), name="resnet8", momentum=0.9)


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Digits over 4 devices, fewer than the small ConvNet's: a step takes twenty times as long."""
    return federate_digits(
        devices=4 if devices is None else devices,
        alpha=alpha,
        seed=seed,
        held_out=400,
        central=400,
        calibration=100,
        pixels=32,
        limit=1600,
    )


RESNET8 = Entry(
    name="resnet8",
    title="MLPerf Tiny's residual network reading handwritten digits",
    data="MNIST, 1,600 images",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=8, batch_size=16, learning_rate=3e-3, epochs_on_all=6),
    federated=FederatedTraining(
        rounds=4, local_epochs=1, batch_size=16, learning_rate=5e-4, optimizer="adam"
    ),
)
