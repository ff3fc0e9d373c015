"""Where a model that writes looks, as SVG: words against words, and words over a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from .datasets import Dataset
from .evaluation import predictor
from .measures import greedy_sentences
from .pictures import save

Array = npt.NDArray[Any]

START = 1
END = 0


def written(model: keras.Model, examples: Dataset) -> tuple[Array, Array]:
    """What a model writes about examples, each word the likeliest, and where it looks at each word.

    Args:
        model: From an input and the words so far to the next word, with one `keras.layers.Attention`.
        examples: What to write about.

    Returns:
        int32 [N, T] the words, and float32 [N, T, S] the shares of the S places at each.
    """
    words = greedy_sentences(predictor(model), examples.x, start=START, steps=examples.y.shape[1], end=END)
    so_far = np.concatenate([np.full((len(words), 1), START, np.int32), words[:, :-1]], axis=1)
    layer = next(one for one in model.layers if isinstance(one, keras.layers.Attention))
    query, value = keras.Model(model.inputs, layer.input).predict_on_batch([examples.x, so_far])
    _, shares = layer([query, value], return_attention_scores=True)
    return words, np.asarray(shares)


def draw_translations(
    model: keras.Model, examples: Dataset, source_words: tuple[str, ...], path: Path
) -> Path:
    """A matrix for each of a few sentences: its words across, what was written down, dark where it looked."""
    words, shares = written(model, examples)
    figure = Figure(figsize=(4.2 * len(words), 4.2), layout="constrained")
    for place, (source, target) in enumerate(zip(examples.x, words, strict=True)):
        columns = [source_words[word] for word in source if word != END]
        rows = [examples.labels[word] for word in target[: _length(target)]]
        axes = figure.add_subplot(1, len(words), place + 1)
        axes.imshow(shares[place, : len(rows), : len(columns)], cmap="Greens", vmin=0, vmax=1)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows)
    return save(figure, path)


def draw_glances(model: keras.Model, examples: Dataset, path: Path) -> Path:
    """A row for each of a few pictures, a column for each word, green where the model looked at that word.

    The places are the cells of a square grid over the picture, row by row.
    """
    words, shares = written(model, examples)
    longest = max(_length(sentence) for sentence in words)
    figure = Figure(figsize=(1.25 * longest, 1.5 * len(words) + 0.4), layout="constrained")
    figure.suptitle("what the model writes, and where it looks at each word", fontsize=10)
    side = round(shares.shape[2] ** 0.5)
    height, width = examples.x.shape[1:3]
    for row, (picture, sentence) in enumerate(zip(examples.x, words, strict=True)):
        for column, word in enumerate(sentence[: _length(sentence)]):
            axes = figure.add_subplot(len(words), longest, row * longest + column + 1)
            axes.imshow(picture[..., 0], cmap="gray_r")
            looked = shares[row, column].reshape(side, side)
            cells = np.kron(looked / looked.max(), np.ones((height // side, width // side)))
            axes.imshow(np.ones_like(cells), cmap="summer", vmin=0, vmax=2, alpha=0.7 * cells)
            axes.set(xticks=[], yticks=[])
            axes.set_title(examples.labels[word], fontsize=8)
    return save(figure, path)


def _length(sentence: Array) -> int:
    """Words of a sentence with its end."""
    ends = np.flatnonzero(sentence == END)
    return int(ends[0]) + 1 if len(ends) else len(sentence)
