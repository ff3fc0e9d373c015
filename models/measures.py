"""What each field counts: error rates, areas, overlaps and perplexities, in numpy.

A measure asks a predictor, not a Keras model, so that a Keras model, an int8 file and a device are measured
by one and the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .datasets import Dataset

Array = npt.NDArray[Any]
Predict = Callable[..., Array]
"""From the inputs of a model, `[N, ...]` each, to its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number for how well a model does on held-out examples.

    Attributes:
        name: As the field calls it.
        of: Computes it by asking the predictor about the examples.
        higher_is_better: Whether more is better.
        percent: Whether it is a share that people read in percent.
    """

    name: str
    of: Callable[[Predict, Dataset], float]
    higher_is_better: bool = True
    percent: bool = True

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is; negative if worse."""
        return after - before if self.higher_is_better else before - after

    def show(self, value: float) -> str:
        """As people read it: `97.3 %`, or `23.1`."""
        return f"{100 * value:.1f} %" if self.percent else f"{value:.2f}"


def accuracy(outputs: Array, y: Array) -> float:
    """The share of answers whose largest output is at the right class.

    Args:
        outputs: [N, ..., C].
        y: int [N, ...].
    """
    return float((outputs.argmax(axis=-1) == y).mean())


def top_accuracy(outputs: Array, y: Array, *, k: int) -> float:
    """The share of answers with their class among the `k` largest outputs; equals count in its favour."""
    at_class = np.take_along_axis(outputs, y[:, None].astype(np.intp), axis=1)
    return float(((outputs > at_class).sum(axis=1) < k).mean())


def roc_auc(scores: Array, positive: npt.NDArray[np.bool_]) -> float:
    """The area under the receiver operating characteristic: how often a positive scores above a negative.

    Equal scores count one half (Mann and Whitney's U).
    """
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]
    positives = int(positive.sum())
    negatives = len(values[inverse.reshape(-1)]) - positives
    area = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(area / max(1, positives * negatives))


def equal_error_rate(distances: Array, same: npt.NDArray[np.bool_]) -> float:
    """The error rate of a verification at the threshold where as many pairs are wrongly accepted as refused.

    Args:
        distances: [P], small where a pair is thought to be of one class.
        same: Whether it is.
    """
    order = np.argsort(distances, kind="stable")
    accepted = same[order]
    refused_rate = 1 - np.cumsum(accepted) / max(1, int(same.sum()))
    accepted_rate = np.cumsum(~accepted) / max(1, int((~same).sum()))
    place = int(np.argmin(np.abs(refused_rate - accepted_rate)))
    return float((refused_rate[place] + accepted_rate[place]) / 2)


def mean_iou(outputs: Array, y: Array) -> float:
    """The intersection over the union of each class's pixels, averaged over the classes that occur in `y`."""
    answers, classes = outputs.argmax(axis=-1), outputs.shape[-1]
    confusion = np.bincount(y.reshape(-1) * classes + answers.reshape(-1), minlength=classes * classes)
    confusion = confusion.reshape(classes, classes)
    right, there = np.diag(confusion), confusion.sum(axis=1)
    union = there + confusion.sum(axis=0) - right
    return float((right[there > 0] / union[there > 0]).mean())


def perplexity(logits: Array, y: Array) -> float:
    """The exponential of the mean of -log of the probability that each word of `y` was given.

    Args:
        logits: [N, ..., V]; the softmax of each row is its distribution, so that logarithms of probabilities
            are logits too. Eight bits of a probability would end at 1/256; eight bits of a logit go on.
        y: int [N, ...].
    """
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    given = np.take_along_axis(exact, y[..., None].astype(np.intp), axis=-1)[..., 0]
    return float(np.exp((np.log(np.exp(exact).sum(axis=-1)) - given).mean()))


def character_error_rate(logits: Array, y: Array, *, blank: int = 0) -> float:
    """Edits from what a line is read as to what it says, over the number of characters that it says.

    Args:
        logits: [N, T, C]; the largest of each step is taken, repeats and blanks are dropped.
        y: int [N, L], padded with the blank.
        blank: The class that means "no character".
    """
    edits = characters = 0
    for path, right in zip(logits.argmax(axis=-1), y, strict=True):
        steps = path[np.concatenate([[True], path[1:] != path[:-1]])]
        said = right[right != blank]
        edits += edit_distance(steps[steps != blank].tolist(), said.tolist())
        characters += len(said)
    return edits / max(1, characters)


def edit_distance(one: list[int], other: list[int]) -> int:
    """The fewest insertions, deletions and replacements from one sequence to the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for place, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], place
        for column, right in enumerate(other, start=1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (left != right)),
            )
    return row[-1]


def greedy_sentences(predict: Predict, x: Array, *, start: int, steps: int, end: int = 0) -> Array:
    """The sentences, int32 [N, steps], that a decoder writes word by word, each word the likeliest.

    Args:
        predict: From `x` and the words so far [N, steps] to probabilities [N, steps, V].
        x: What the sentences are about, [N, ...].
        start: The word before the first.
        steps: Words of a sentence.
        end: The word after the last; what follows it is `end` too.
    """
    so_far = np.full((len(x), steps), end, np.int32)
    so_far[:, 0] = start
    words = np.full((len(x), steps), end, np.int32)
    open_rows = np.arange(len(x))
    for step in range(steps):
        likeliest = predict(x[open_rows], so_far[open_rows])[:, step].argmax(axis=-1)
        words[open_rows, step] = likeliest
        if step + 1 < steps:
            so_far[open_rows, step + 1] = likeliest
        open_rows = open_rows[likeliest != end]
        if not len(open_rows):
            break
    return words


def _exact_match(start: int) -> Callable[[Predict, Dataset], float]:
    def of(predict: Predict, test: Dataset) -> float:
        written = greedy_sentences(predict, test.x, start=start, steps=test.y.shape[1])
        return float((written == test.y).all(axis=1).mean())

    return of


def _verification(predict: Predict, test: Dataset) -> float:
    """Over all pairs, by their embeddings' directions: int8 kernels do not keep a length of 1."""
    embeddings = predict(test.x)
    embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(test), 1)
    distances = np.linalg.norm(embeddings[first] - embeddings[second], axis=1)
    return equal_error_rate(distances, test.y[first] == test.y[second])


def _mean_auc(predict: Predict, test: Dataset) -> float:
    """Over the columns of the answers [N, tasks] of zeros and ones."""
    scores = predict(test.x)
    return float(
        np.mean([roc_auc(scores[:, task], test.y[:, task] > 0.5) for task in range(test.y.shape[1])])
    )


def _anomalies(predict: Predict, test: Dataset) -> float:
    error = np.square(predict(test.x) - test.x).reshape(len(test), -1).mean(axis=1)
    return roc_auc(error, test.y == 1)


ACCURACY = Measure(name="accuracy", of=lambda predict, test: accuracy(predict(test.x), test.y))
ROC_AUC = Measure(name="ROC AUC", of=lambda predict, test: roc_auc(predict(test.x)[:, 1], test.y == 1))
TASKS_AUC = Measure(name="mean ROC AUC", of=_mean_auc)
EQUAL_ERROR_RATE = Measure(name="equal error rate", of=_verification, higher_is_better=False)
MEAN_IOU = Measure(name="mean IoU", of=lambda predict, test: mean_iou(predict(test.x), test.y))
PERPLEXITY = Measure(
    name="perplexity",
    of=lambda predict, test: perplexity(predict(test.x), test.y),
    higher_is_better=False,
    percent=False,
)
CHARACTER_ERROR_RATE = Measure(
    name="character error rate",
    of=lambda predict, test: character_error_rate(predict(test.x), test.y),
    higher_is_better=False,
)
EXACT_MATCH = Measure(name="exact match", of=_exact_match(start=1))
ANOMALY_AUC = Measure(name="ROC AUC", of=_anomalies)
