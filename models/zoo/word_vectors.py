"""The first neural language model: vectors for words, learned by guessing the next one.

Three words' vectors side by side, one hidden layer and direct connections past it, a distribution over the
vocabulary; the layers' weights decay. Source: Y. Bengio et al., "A neural probabilistic language model",
JMLR 3, 2003.
"""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from ..baselines import FOUR_GRAM
from ..datasets import Dataset, Federation, federate_words, refuse_alpha
from ..losses import SparseCategoricalCrossentropy
from ..measures import PERPLEXITY
from ..word_map import draw_word_map
from .entry import CentralTraining, Entry, FederatedTraining

WORDS = 400
CONTEXT = 3
WEIGHT_DECAY = keras.regularizers.L2(1e-4)


def build() -> keras.Model:
    """int32 [B, 3] words to the logits of the next, float32 [B, 400]."""
    words = keras.Input((CONTEXT,), dtype="int32", name="words")
    vectors = layers.Embedding(WORDS, 24, name="vectors")(words)
    context = layers.Dropout(0.4, name="dropout")(layers.Flatten(name="context")(vectors))
    hidden = layers.Dense(64, activation="tanh", kernel_regularizer=WEIGHT_DECAY, name="hidden")(context)
    both = layers.Concatenate(name="both")([hidden, context])
    both = layers.Dropout(0.4, name="second_dropout")(both)
    next_word = layers.Dense(WORDS, kernel_regularizer=WEIGHT_DECAY, name="next_word")(both)
    return keras.Model(words, next_word, name="word-vectors")


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """A topic of the Python language reference per device."""
    refuse_alpha(alpha, "topic")
    return federate_words(devices=devices, seed=seed, steps=CONTEXT, size=WORDS, next_only=True)


def draw(model: keras.Model, test: Dataset, folder: Path) -> Path:
    """The learned vectors on a plane."""
    return draw_word_map(model, test.labels, folder / "words.svg")


WORD_VECTORS = Entry(
    name="word-vectors",
    title="Neural probabilistic language model that learns a vector for each word",
    data="the Python language reference",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=10, batch_size=64, learning_rate=4e-3),
    federated=FederatedTraining(
        rounds=6, local_epochs=1, batch_size=32, learning_rate=1e-3, optimizer="adam"
    ),
    needs=(),
    loss=SparseCategoricalCrossentropy(from_logits=True),
    measure=PERPLEXITY,
    baseline=FOUR_GRAM,
    draw=draw,
)
