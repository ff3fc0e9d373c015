"""A ConvNet that looks and an LSTM that tells what it sees, attending to a part of the picture at each word.

Sources: O. Vinyals et al., "Show and tell", CVPR 2015; K. Xu et al., "Show, attend and tell", ICML 2015.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from ..attention import draw_glances
from ..datasets import Dataset, Federation, federate_digits, scenes
from ..measures import EXACT_MATCH
from .entry import CentralTraining, Entry, FederatedTraining

WORDS = len(scenes.CAPTION_WORDS)


def build() -> keras.Model:
    """A picture [B, 32, 32, 1] and the words so far int32 [B, 12] to the next ones, float32 [B, 12, 17]."""
    picture = keras.Input((32, 32, 1), name="picture")
    sentence = keras.Input((scenes.CAPTION_STEPS,), dtype="int32", name="sentence")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="strokes")(picture)
    x = layers.MaxPooling2D(name="coarse")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="shapes")(x)
    x = layers.MaxPooling2D(name="coarser")(x)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name="digits")(x)
    # A bias for each place, so that attention knows a region by where it is and not only by what is in it.
    regions = layers.EinsumDense(
        "bpc,cf->bpf", (16, 64), bias_axes="pf", bias_initializer="glorot_uniform", name="regions"
    )(layers.Reshape((16, 64), name="grid")(x))
    glance = layers.Dense(64, activation="tanh", name="glance")(layers.Flatten(name="whole")(x))
    told = layers.LSTM(64, return_sequences=True, name="telling")(
        layers.Embedding(WORDS, 32, name="vectors")(sentence),
        initial_state=[glance, layers.Dense(64, name="memory")(glance)],
    )
    looked_at = layers.Attention(name="attention")([told, regions])
    x = layers.Concatenate(name="both")([told, looked_at])
    x = layers.Dense(64, activation="relu", name="combined")(x)
    return keras.Model(
        [picture, sentence],
        layers.Dense(WORDS, activation="softmax", name="next_word")(x),
        name="digit-captioner",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Scenes composed of each device's own digits; four for each digit, of those held out one."""
    digits = federate_digits(
        devices=4 if devices is None else devices,
        alpha=alpha,
        seed=seed,
        held_out=300,
        central=1000,
        limit=4000,
    )
    return digits.map(
        lambda part, own_seed: scenes.captioned(part, own_seed, count=4 * len(part)),
        preprocessing="x0: 32x32 grey pixels, pixel / 255; x1: 12 words so far, beginning with the start",
        seed=seed,
        test=scenes.captioned(digits.test, seed),
    )


def draw(model: keras.Model, test: Dataset, folder: Path) -> Path:
    """Where the decoder looked at each word, over four held-out scenes."""
    return draw_glances(model, test.take(np.arange(4)), folder / "attention.svg")


DIGIT_CAPTIONER = Entry(
    name="digit-captioner",
    title="ConvNet and attending LSTM telling which digits are where",
    data="scenes of real MNIST digits",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=15, batch_size=16, learning_rate=3e-3, epochs_on_all=6),
    federated=FederatedTraining(
        rounds=6, local_epochs=1, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    measure=EXACT_MATCH,
    draw=draw,
)
