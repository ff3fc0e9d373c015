"""An LSTM that guesses the next word of a text.

Source: M. Sundermeyer, R. Schlueter, H. Ney, "LSTM neural networks for language modeling", Interspeech 2012.
"""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from ..baselines import TRIGRAM
from ..datasets import Dataset, Federation, federate_words, refuse_alpha
from ..measures import PERPLEXITY
from ..word_map import draw_word_map
from .entry import CentralTraining, Entry, FederatedTraining

WORDS = 400
STEPS = 16


def build() -> keras.Model:
    """int32 [B, 16] words to the probabilities of the word after each, float32 [B, 16, 400]."""
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32", name="words"),
            layers.Embedding(WORDS, 32, name="vectors"),
            layers.Dropout(0.2, name="dropout"),
            layers.LSTM(64, return_sequences=True, name="memory"),
            layers.Dense(WORDS, activation="softmax", name="next_word"),
        ],
        name="next-word-lstm",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """A topic of the Python language reference per device."""
    refuse_alpha(alpha, "topic")
    return federate_words(devices=devices, seed=seed, steps=STEPS, size=WORDS)


def draw(model: keras.Model, test: Dataset, folder: Path) -> Path:
    """The learned vectors on a plane."""
    return draw_word_map(model, test.labels, folder / "words.svg")


NEXT_WORD_LSTM = Entry(
    name="next-word-lstm",
    title="LSTM language model over words",
    data="the Python language reference",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=25, batch_size=16, learning_rate=4e-3),
    federated=FederatedTraining(
        rounds=6, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=(),
    measure=PERPLEXITY,
    baseline=TRIGRAM,
    draw=draw,
)
