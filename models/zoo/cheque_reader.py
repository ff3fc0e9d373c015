"""A ConvNet and an LSTM that read a line of digits of any length, without being told where each digit is.

Convolutions turn the line into 24 columns, the LSTM reads them from both sides, and connectionist temporal
classification aligns them with what the line says. Sources: Y. LeCun et al., 1998; A. Graves et al.,
"Connectionist temporal classification", ICML 2006; B. Shi, X. Bai, C. Yao, "CRNN", 2015.
"""

from __future__ import annotations

import keras
from keras import layers

from ..baselines import NEAREST_LINE
from ..datasets import Federation, federate_digits, scenes
from ..losses import CTC
from ..measures import CHARACTER_ERROR_RATE
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 16, 96, 1] to the logits of blank and ten digits in 24 columns, float32 [B, 24, 11]."""
    line = keras.Input((16, 96, 1), name="line")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="strokes")(line)
    x = layers.MaxPooling2D(name="coarse")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="shapes")(x)
    x = layers.MaxPooling2D(name="coarser")(x)
    x = layers.Permute((2, 1, 3), name="columns_first")(x)
    x = layers.Reshape((24, 4 * 32), name="columns")(x)
    x = layers.Bidirectional(layers.LSTM(32, return_sequences=True), name="reading")(x)
    return keras.Model(line, layers.Dense(11, name="character")(x), name="cheque-reader")


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Lines composed of each device's own digits."""
    digits = federate_digits(
        devices=4 if devices is None else devices,
        alpha=alpha,
        seed=seed,
        held_out=400,
        central=1000,
        limit=3000,
    )
    return digits.map(scenes.lines, preprocessing="16x96 grey pixels, x = pixel / 255", seed=seed)


CHEQUE_READER = Entry(
    name="cheque-reader",
    title="ConvNet, LSTM and CTC reading lines of digits",
    data="lines of real MNIST digits",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=20, batch_size=16, learning_rate=3e-3),
    federated=FederatedTraining(
        rounds=4, local_epochs=1, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    loss=CTC(max_label_length=6),
    measure=CHARACTER_ERROR_RATE,
    baseline=NEAREST_LINE,
)
