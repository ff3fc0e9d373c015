"""An LSTM that guesses the next word of a text, with a way for the last word past it.

Sources: M. Sundermeyer, R. Schlueter, H. Ney, "LSTM neural networks for language modeling", Interspeech 2012;
A. Graves, "Generating sequences with recurrent neural networks", 2013 (the way past).
"""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from ..baselines import TRIGRAM
from ..datasets import Dataset, Federation, federate_words, refuse_alpha
from ..losses import SparseCategoricalCrossentropy
from ..measures import PERPLEXITY
from ..word_map import draw_word_map
from .entry import CentralTraining, Entry, FederatedTraining

WORDS = 400
STEPS = 16


def build() -> keras.Model:
    """int32 [B, 16] words to the logits of the word after each, float32 [B, 16, 400]."""
    words = keras.Input((STEPS,), dtype="int32", name="words")
    vectors = layers.Embedding(WORDS, 32, name="vectors")(words)
    vectors = layers.Dropout(0.4, name="dropout")(vectors)
    memory = layers.LSTM(64, return_sequences=True, name="memory")(vectors)
    both = layers.Concatenate(name="both")([memory, vectors])
    both = layers.Dropout(0.5, name="second_dropout")(both)
    return keras.Model(words, layers.Dense(WORDS, name="next_word")(both), name="next-word-lstm")


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
    central=CentralTraining(epochs=40, batch_size=32, learning_rate=1e-2),
    federated=FederatedTraining(
        rounds=6, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=(),
    loss=SparseCategoricalCrossentropy(from_logits=True),
    measure=PERPLEXITY,
    baseline=TRIGRAM,
    draw=draw,
)
