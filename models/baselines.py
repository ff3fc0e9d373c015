"""Simple predictors that a network has to beat, each fitted on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .datasets import Dataset
from .measures import Array, Measure, Predict

_DISCOUNT = 0.75
_SPREAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A simple predictor.

    Attributes:
        name: For people.
        fit: From training examples to a predictor whose outputs are like the network's.
    """

    name: str
    fit: Callable[[Dataset], Predict]

    def value(self, measure: Measure, train: Dataset, test: Dataset) -> float:
        """What the measure says about it."""
        return measure.of(self.fit(train), test)


def _nearest_neighbour(train: Dataset) -> Predict:
    """One-hot answers of the nearest training example by Euclidean distance, [N, ..., classes]."""
    known = train.x.reshape(len(train), -1)
    squares = np.square(known).sum(axis=1)
    classes = max(len(train.labels), int(train.y.max()) + 1)

    def predict(x: Array, *more: Array) -> Array:
        rows = x.reshape(len(x), -1)
        nearest = np.argmin(squares - 2 * rows @ known.T, axis=1)
        return np.asarray(np.eye(classes, dtype=np.float32)[train.y[nearest]])

    return predict


def _nearest_mean(train: Dataset) -> Predict:
    """Minus the distance to each class's mean example, [N, classes]."""
    rows = train.x.reshape(len(train), -1)
    means = np.stack(
        [
            rows[train.y == number].mean(axis=0) if (train.y == number).any() else np.full(rows.shape[1], 1e3)
            for number in range(len(train.labels))
        ]
    )

    def predict(x: Array) -> Array:
        return np.asarray(-np.linalg.norm(x.reshape(len(x), 1, -1) - means, axis=2))

    return predict


def _raw_pixels(train: Dataset) -> Predict:
    """The example itself as its embedding."""
    return lambda x: x.reshape(len(x), -1)


def _mean_example(train: Dataset) -> Predict:
    """Whatever comes in, the mean of the training examples comes out."""
    mean = train.x.mean(axis=0)
    return lambda x: np.broadcast_to(mean, x.shape)


def _most_frequent(train: Dataset) -> Predict:
    """The most frequent answer at each place, [N, ..., classes]."""
    classes = len(train.labels)
    shares = np.stack([(train.y == number).mean(axis=0) for number in range(classes)], axis=-1)
    return lambda x, *more: np.broadcast_to(shares, (len(x), *shares.shape))


def _ink_by_neighbour(train: Dataset) -> Predict:
    """Bright pixels have the most frequent class of bright pixels there; the others are background."""
    classes, bright = len(train.labels), train.x[..., 0] > 0.5
    ink = np.stack([((train.y == number) & bright).sum(axis=0) for number in range(classes)], axis=-1)
    ink[..., 0] = 0
    likeliest = np.eye(classes, dtype=np.float32)[ink.argmax(axis=-1)]
    page = np.eye(classes, dtype=np.float32)[0]
    return lambda x: np.where((x[..., 0] > 0.5)[..., None], likeliest, page)


def n_gram(order: int) -> Callable[[Dataset], Predict]:
    """An n-gram model with interpolated absolute discounting over token windows, as logarithms.

    At the start of a window a context is as long as what is there, as the network's is. A fiftieth of every
    distribution is spread evenly: without it, words that one text has and another lacks cost a tenth. Source:
    H. Ney, U. Essen, R. Kneser, "On structuring probabilistic dependences in stochastic language modelling",
    1994.
    """

    def fit(train: Dataset) -> Predict:
        size = len(train.labels)
        rows = np.concatenate([train.x, train.y.reshape(len(train), -1)[:, -1:]], axis=1)
        tables: list[dict[tuple[int, ...], Array]] = [{} for _ in range(order)]
        # Each token is an answer once: at the end of its window, or anywhere in windows that do not overlap.
        first = rows.shape[1] - 1 if train.y.ndim == 1 else 1
        for row in rows.tolist():
            for end in range(first, len(row)):
                for length in range(min(order, end + 1)):
                    context = tuple(row[end - length : end])
                    counts = tables[length].setdefault(context, np.zeros(size, np.float32))
                    counts[row[end]] += 1

        def probabilities(context: tuple[int, ...]) -> Array:
            if not context:
                return np.asarray((tables[0][()] + 0.1) / (tables[0][()] + 0.1).sum())
            shorter = probabilities(context[1:])
            counts = tables[len(context)].get(context)
            if counts is None:
                return shorter
            total = counts.sum()
            kept = np.maximum(counts - _DISCOUNT, 0) / total
            return np.asarray(kept + _DISCOUNT * (counts > 0).sum() / total * shorter)

        def predict(x: Array) -> Array:
            contexts = [
                [tuple(row[max(0, end + 2 - order) : end + 1]) for end in range(len(row))]
                for row in x.tolist()
            ]
            if train.y.ndim == 1:
                given = np.stack([probabilities(row[-1]) for row in contexts])
            else:
                given = np.stack([[probabilities(one) for one in row] for row in contexts])
            return np.asarray(np.log((1 - _SPREAD) * given + _SPREAD / size))

        return predict

    return fit


def _nearest_line(train: Dataset) -> Predict:
    """What the nearest line says, with a blank after every character, [N, 2 L, classes]."""
    spaced = np.stack([train.y, np.zeros_like(train.y)], axis=-1).reshape(len(train), -1)
    return _nearest_neighbour(Dataset(train.x, spaced, train.labels))


def _random_forest(train: Dataset) -> Predict:
    """A forest of 300 trees for each task, [N, tasks] (L. Breiman, 2001)."""
    from sklearn.ensemble import RandomForestClassifier

    forests = [
        RandomForestClassifier(300, random_state=0).fit(train.x, train.y[:, task] > 0.5)
        for task in range(train.y.shape[1])
    ]
    return lambda x: np.stack([forest.predict_proba(x)[:, 1] for forest in forests], axis=-1)


NEAREST_NEIGHBOUR = Baseline(name="nearest neighbour", fit=_nearest_neighbour)
NEAREST_LINE = Baseline(name="nearest line", fit=_nearest_line)
NEAREST_MEAN = Baseline(name="nearest class mean", fit=_nearest_mean)
RAW_PIXELS = Baseline(name="distance of pixels", fit=_raw_pixels)
MEAN_EXAMPLE = Baseline(name="distance from the mean", fit=_mean_example)
MOST_FREQUENT = Baseline(name="most frequent answer", fit=_most_frequent)
BRIGHT_PIXELS = Baseline(name="bright pixels", fit=_ink_by_neighbour)
RANDOM_FOREST = Baseline(name="random forest", fit=_random_forest)
TRIGRAM = Baseline(name="trigram model", fit=n_gram(3))
FOUR_GRAM = Baseline(name="4-gram model", fit=n_gram(4))
