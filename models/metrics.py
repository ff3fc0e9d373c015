"""Metrics as weighted sums over a batch, which add up exactly to the metric of a whole data set.

`evaluate` returns sums, never means: a mean of batch means is wrong as soon as the last batch is short. Over
all batches, `loss = loss_sum / example_count` and `metric = metric_sum / weight_sum`, which is what Keras
reports as `loss` and as `weighted_metrics`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from ..errors import LossError
from .losses import Loss, example_count, mask_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(ABC):
    """A number per example whose weighted mean is the metric."""

    name: ClassVar[str]

    @abstractmethod
    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """float32 [B], averaged over the inner axes of an example."""

    def sums(
        self, y: tf.Tensor, output: tf.Tensor, weight: tf.Tensor, *, from_logits: bool = False
    ) -> dict[str, tf.Tensor]:
        """`{name}_sum`, float32 []; rows of weight 0 add exactly nothing, whatever they hold."""
        y, output = mask_rows(y, weight), mask_rows(output, weight)
        values = self.per_example(y, output, from_logits=from_logits)
        return {f"{self.name}_sum": tf.reduce_sum(mask_rows(values, weight) * weight)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAccuracy(Metric):
    """How often the largest output (the first of equals) is at the label."""

    name: ClassVar[str] = "accuracy"

    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """1 where the label has the largest output."""
        return _share_per_example(tf.equal(_largest(output), tf.reshape(y, [-1])), output)


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalAccuracy(Metric):
    """How often the largest output and the largest target are at one place."""

    name: ClassVar[str] = "accuracy"

    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """1 where both have their largest value."""
        return _share_per_example(tf.equal(_largest(output), _largest(y)), output)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryAccuracy(Metric):
    """How often a probability is on the target's side of one half; for logits, of 0."""

    name: ClassVar[str] = "accuracy"

    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """Targets count as yes only if they are exactly 1, as in Keras."""
        yes = tf.cast(tf.greater(output, 0.0 if from_logits else 0.5), tf.float32)
        return _share_per_example(tf.equal(y, yes), output)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopAccuracy(Metric):
    """How often the label is among the `k` largest of C outputs.

    Attributes:
        k: How many places count.
    """

    name: ClassVar[str] = "top_accuracy"

    k: int = 5

    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """1 where fewer than `k` outputs are larger than the label's, so that ties count in its favour."""
        rows = tf.reshape(output, [-1, output.shape[-1]])
        labels = tf.one_hot(tf.reshape(y, [-1]), output.shape[-1])
        at_label = tf.reduce_sum(rows * labels, 1, keepdims=True)
        larger = tf.reduce_sum(tf.sign(tf.nn.relu(rows - at_label)), 1)
        # A label out of range is nowhere: with no label to compare with, nothing would be larger.
        return _share_per_example(tf.less(larger + (1.0 - tf.reduce_sum(labels, 1)) * self.k, self.k), output)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAbsoluteError(Metric):
    """The mean of absolute errors."""

    name: ClassVar[str] = "mean_absolute_error"

    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """The mean over the elements of each example."""
        return tf.reduce_mean(tf.abs(tf.reshape(output - y, [output.shape[0], -1])), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError(Metric):
    """The mean of squared errors."""

    name: ClassVar[str] = "mean_squared_error"

    def per_example(self, y: tf.Tensor, output: tf.Tensor, *, from_logits: bool) -> tf.Tensor:
        """The mean over the elements of each example."""
        error = tf.reshape(output - y, [output.shape[0], -1])
        return tf.reduce_mean(error * error, 1)


_ACCURACY: dict[str, Metric] = {
    "sparse_categorical_crossentropy": SparseAccuracy(),
    "categorical_crossentropy": CategoricalAccuracy(),
    "binary_crossentropy": BinaryAccuracy(),
}
_ERRORS: dict[str, Metric] = {
    "mean_absolute_error": MeanAbsoluteError(),
    "mean_squared_error": MeanSquaredError(),
    "mae": MeanAbsoluteError(),
    "mse": MeanSquaredError(),
}
_OF_LOSS: dict[str, tuple[Metric, ...]] = {
    **{name: (metric,) for name, metric in _ACCURACY.items()},
    "mean_squared_error": (MeanAbsoluteError(),),
    "mean_absolute_error": (MeanSquaredError(),),
    "huber": (MeanAbsoluteError(), MeanSquaredError()),
}

NAMES = ("accuracy", "top_accuracy", *_ERRORS)
"""The metrics there are; `top_accuracy` takes `k`."""


def for_loss(loss: Loss) -> tuple[Metric, ...]:
    """The metrics that a user of `loss` expects to see: accuracy for classes, errors for numbers."""
    return _OF_LOSS.get(loss.name, ())


def get(name: str, loss: Loss, **hyperparameters: int) -> Metric:
    """The metric of this name that goes with the targets of `loss`.

    Raises:
        LossError: No such metric, or it does not fit the loss's targets.
    """
    if name == "accuracy" and loss.name in _ACCURACY:
        return _ACCURACY[loss.name]
    if name == "top_accuracy" and loss.name == "sparse_categorical_crossentropy":
        return TopAccuracy(**hyperparameters)
    if name in _ERRORS and loss.name in (*_ERRORS, "huber", "cosine_similarity"):
        return _ERRORS[name]
    raise LossError(
        f"Expected a metric of {', '.join(NAMES)} that fits {loss.name}, received {name!r}.",
        remedy="Leave the metrics out for those that go with the loss.",
    )


def totals(weight: tf.Tensor) -> dict[str, tf.Tensor]:
    """What sums are divided by: `weight_sum`, and `example_count`, the rows whose weight is not 0."""
    return {"weight_sum": tf.reduce_sum(weight), "example_count": example_count(weight)}


def _largest(output: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(output, [-1, output.shape[-1]])
    return tf.argmax(rows, 1, output_type=tf.int32)


def _share_per_example(hits: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.reshape(tf.cast(hits, tf.float32), [output.shape[0], -1]), 1)
