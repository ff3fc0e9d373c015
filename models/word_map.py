"""The vectors that a language model learned for its words, laid out on a plane."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from ..errors import DatasetError
from .pictures import save

MOST_WORDS = 150
_KINDS = (
    ("letters", "tab:green", str.isalpha),
    ("numbers", "tab:blue", str.isdigit),
    ("signs", "tab:red", lambda token: True),
)


def draw_word_map(model: keras.Model, words: tuple[str, ...], path: Path) -> Path:
    """The most frequent words where t-SNE puts their vectors: near one another if they are used alike.

    Source: L. van der Maaten, G. Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.

    Args:
        model: With an embedding, the first of which is drawn.
        words: Of the embedding's rows, the most frequent first after one for the unknown.
        path: Where to.

    Raises:
        DatasetError: scikit-learn is not installed.
    """
    try:
        manifold: Any = import_module("sklearn.manifold")
    except ImportError as error:
        raise DatasetError(
            "Expected the package scikit-learn, which lays out the words; it is not installed.",
            remedy="Install the zoo's packages: pip install 'hedgerow[zoo]'.",
        ) from error
    layer = next(one for one in model._flatten_layers() if isinstance(one, keras.layers.Embedding))
    shown = range(1, min(len(words), MOST_WORDS + 1))
    vectors = np.asarray(layer.weights[0])[list(shown)]
    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    layout = manifold.TSNE(perplexity=min(20, len(shown) / 4), init="pca", random_state=0)
    points = layout.fit_transform(directions)
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.add_subplot()
    kinds = [next(kind for kind in _KINDS if kind[2](words[number])) for number in shown]
    for name, colour, _ in _KINDS:
        own = [place for place, kind in enumerate(kinds) if kind[0] == name]
        axes.scatter(points[own, 0], points[own, 1], s=6, color=colour, label=name)
    for (x, y), number, kind in zip(points, shown, kinds, strict=True):
        word = words[number] if words[number].strip() else "space"
        axes.annotate(
            word.replace("$", r"\$"),
            (x, y),
            xytext=(2, 2),
            textcoords="offset points",
            fontsize=8,
            color=kind[1],
        )
    axes.set(xticks=[], yticks=[])
    axes.margins(x=0.08)
    axes.legend(frameon=False, loc="upper right")
    return save(figure, path)
