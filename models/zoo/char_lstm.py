"""An LSTM that writes text letter by letter.

Sources: I. Sutskever, J. Martens, G. Hinton, "Generating text with recurrent neural networks", ICML 2011;
A. Graves, "Generating sequences with recurrent neural networks", 2013.
"""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from ..baselines import FOUR_GRAM
from ..datasets import Dataset, Federation, federate_letters, refuse_alpha
from ..losses import SparseCategoricalCrossentropy
from ..measures import PERPLEXITY
from ..word_map import draw_word_map
from .entry import CentralTraining, Entry, FederatedTraining

LETTERS = 48
STEPS = 40


def build() -> keras.Model:
    """int32 [B, 40] letters to the logits of the letter after each, float32 [B, 40, 48]."""
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32", name="letters"),
            layers.Embedding(LETTERS, 16, name="vectors"),
            layers.Dropout(0.2, name="dropout"),
            layers.LSTM(128, return_sequences=True, name="memory"),
            layers.Dropout(0.5, name="second_dropout"),
            layers.Dense(LETTERS, name="next_letter"),
        ],
        name="char-lstm",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """A topic of the Python language reference per device."""
    refuse_alpha(alpha, "topic")
    return federate_letters(devices=devices, seed=seed, steps=STEPS, size=LETTERS)


def draw(model: keras.Model, test: Dataset, folder: Path) -> Path:
    """The learned vectors on a plane."""
    return draw_word_map(model, test.labels, folder / "words.svg")


CHAR_LSTM = Entry(
    name="char-lstm",
    title="LSTM language model over letters",
    data="the Python language reference",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=40, batch_size=32, learning_rate=1e-2),
    federated=FederatedTraining(
        rounds=5, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=(),
    loss=SparseCategoricalCrossentropy(from_logits=True),
    measure=PERPLEXITY,
    baseline=FOUR_GRAM,
    draw=draw,
)
