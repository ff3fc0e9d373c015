"""An LSTM encoder and decoder with attention that translates English number words into French ones.

The decoder starts from the encoder's last state and, at each French word, looks back at the English words.
Sources: I. Sutskever, O. Vinyals, Q. Le, "Sequence to sequence learning with neural networks", NeurIPS 2014;
D. Bahdanau, K. Cho, Y. Bengio, 2015; T. Luong, H. Pham, C. Manning, "Effective approaches to attention",
2015.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from ..attention import draw_translations
from ..datasets import Dataset, Federation, federate_numbers, numbers, refuse_alpha
from ..measures import EXACT_MATCH
from .entry import CentralTraining, Entry, FederatedTraining

ENGLISH = 32
FRENCH = 29


def build() -> keras.Model:
    """English words int32 [B, 6] and French ones so far int32 [B, 9] to the next, float32 [B, 9, 29]."""
    english = keras.Input((6,), dtype="int32", name="english")
    french = keras.Input((9,), dtype="int32", name="french")
    read, hidden, cell = layers.LSTM(48, return_sequences=True, return_state=True, name="encoder")(
        layers.Embedding(ENGLISH, 16, name="english_vectors")(english)
    )
    written = layers.LSTM(48, return_sequences=True, name="decoder")(
        layers.Embedding(FRENCH, 16, name="french_vectors")(french), initial_state=[hidden, cell]
    )
    looked_at = layers.Attention(name="attention")([written, read])
    x = layers.Concatenate(name="both")([written, looked_at])
    x = layers.Dense(48, activation="tanh", name="combined")(x)
    return keras.Model(
        [english, french],
        layers.Dense(FRENCH, activation="softmax", name="next_word")(x),
        name="number-translator",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Every device counts in a thousand of its own."""
    refuse_alpha(alpha, "thousand")
    return federate_numbers(devices=devices, seed=seed)


def draw(model: keras.Model, test: Dataset, folder: Path) -> Path:
    """At which English words the decoder looked for each French one, in three held-out numbers."""
    english = numbers.vocabulary("en")
    return draw_translations(model, test.take(np.arange(3)), english, folder / "attention.svg")


NUMBER_TRANSLATOR = Entry(
    name="number-translator",
    title="LSTM encoder and decoder with attention, from English to French number words",
    data="num2words, numbers below 10,000",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=25, batch_size=16, learning_rate=5e-3),
    federated=FederatedTraining(
        rounds=5, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=("num2words",),
    measure=EXACT_MATCH,
    draw=draw,
)
