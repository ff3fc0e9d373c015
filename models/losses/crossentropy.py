"""Cross-entropy: against integer labels, against distributions, and binary.

Values are those of Keras's functions of the same names. Inner axes (the steps of a sequence, the pixels of a
segmentation) are averaged per example, which for a full batch is Keras's `sum_over_batch_size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from ...errors import LossError
from .loss import RowLoss, same_shape_spec

EPSILON = 1e-7
"""Keras's default `backend.epsilon()`: probabilities are clipped to [EPSILON, 1 - EPSILON]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseCategoricalCrossentropy(RowLoss):
    """Cross-entropy between integer labels and a distribution over C classes."""

    name: ClassVar[str] = "sparse_categorical_crossentropy"
    activation: ClassVar[str | None] = "softmax"

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """int32, the output's shape without its last axis."""
        _require_classes(self.name, output_shape)
        return tf.TensorSpec(list(output_shape[:-1]), tf.int32)

    def label_count(self, output_shape: Sequence[int]) -> int:
        """The size of the output's last axis."""
        return output_shape[-1]

    def value_and_gradient(
        self, y: tf.Tensor, output: tf.Tensor, from_logits: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """-log p(y) and p - onehot(y); of probabilities, as Keras does, the softmax of their clipped log."""
        classes = output.shape[-1]
        rows = tf.reshape(output, [-1, classes])
        labels = tf.one_hot(tf.reshape(y, [-1]), classes)
        if from_logits:
            losses, gradient = _softmax_crossentropy(labels, rows)
        else:
            clipped, inside = _clip_probability(rows)
            losses, gradient = _softmax_crossentropy(labels, tf.math.log(clipped))
            gradient = gradient / clipped * inside
        return _mean_per_example(losses, gradient, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalCrossentropy(RowLoss):
    """Cross-entropy between two distributions over C classes.

    Attributes:
        label_smoothing: The share of each target that is spread evenly over all classes.
    """

    name: ClassVar[str] = "categorical_crossentropy"
    activation: ClassVar[str | None] = "softmax"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _require_smoothing(self.name, self.label_smoothing)

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """float32 of the output's shape, each last axis a distribution."""
        _require_classes(self.name, output_shape)
        return tf.TensorSpec(list(output_shape), tf.float32)

    def value_and_gradient(
        self, y: tf.Tensor, output: tf.Tensor, from_logits: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """-sum(y log p); probabilities are first made to add up to 1, as Keras does."""
        classes = output.shape[-1]
        rows, labels = tf.reshape(output, [-1, classes]), tf.reshape(y, [-1, classes])
        if self.label_smoothing:
            labels = labels * (1.0 - self.label_smoothing) + self.label_smoothing / classes
        if from_logits:
            return _mean_per_example(*_softmax_crossentropy(labels, rows), output)
        # A row that is all zeros would divide by zero; Keras's answer there is NaN.
        total = tf.maximum(tf.reduce_sum(rows, -1, keepdims=True), EPSILON * EPSILON)
        share = rows / total
        clipped, inside = _clip_probability(share)
        losses = -tf.reduce_sum(labels * tf.math.log(clipped), -1)
        by_share = labels / clipped * inside
        gradient = (tf.reduce_sum(by_share * share, -1, keepdims=True) - by_share) / total
        return _mean_per_example(losses, gradient, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossentropy(RowLoss):
    """Cross-entropy of independent yes/no outputs, averaged over them.

    Attributes:
        label_smoothing: How far targets are drawn towards one half.
    """

    name: ClassVar[str] = "binary_crossentropy"
    activation: ClassVar[str | None] = "sigmoid"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _require_smoothing(self.name, self.label_smoothing)

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """float32 of the output's shape, each in [0, 1]."""
        return same_shape_spec(self.name, output_shape)

    def value_and_gradient(
        self, y: tf.Tensor, output: tf.Tensor, from_logits: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """max(z, 0) - zy + log(1 + exp(-|z|)) and sigmoid(z) - y, or the same from clipped probabilities."""
        labels = y
        if self.label_smoothing:
            labels = y * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        if from_logits:
            losses = tf.nn.relu(output) - output * labels + tf.math.log(1.0 + tf.exp(-tf.abs(output)))
            return _mean_per_example(losses, tf.sigmoid(output) - labels, output)
        clipped, inside = _clip_probability(output)
        against = 1.0 - clipped
        losses = -labels * tf.math.log(clipped) - (1.0 - labels) * tf.math.log(against)
        gradient = (clipped - labels) / (clipped * against) * inside
        return _mean_per_example(losses, gradient, output)


def _softmax_crossentropy(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-sum(labels * log softmax) per row of [N, C], and its gradient for labels of any sum."""
    log_probability = tf.nn.log_softmax(logits)
    total = tf.reduce_sum(labels, -1, keepdims=True)
    return -tf.reduce_sum(labels * log_probability, -1), tf.exp(log_probability) * total - labels


def _clip_probability(probability: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The probability within Keras's limits, and 1 where it was within them, else 0.

    SIGN is eight times as fast as a comparison with a scalar and a cast.
    """
    clipped = tf.minimum(tf.maximum(probability, EPSILON), 1.0 - EPSILON)
    return clipped, 1.0 - tf.abs(tf.sign(probability - clipped))


def _mean_per_example(
    losses: tf.Tensor, gradient: tf.Tensor, output: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Average the losses of each example's elements; the gradient shrinks alike."""
    by_example = tf.reshape(losses, [output.shape[0], -1])
    elements = by_example.shape[1]
    if elements == 1:
        return tf.reshape(losses, [-1]), gradient
    return tf.reduce_mean(by_example, 1), gradient * (1.0 / elements)


def _require_classes(name: str, output_shape: Sequence[int]) -> None:
    if len(output_shape) < 2 or output_shape[-1] < 2:
        raise LossError(
            f"{name} expects an output of shape [batch, ..., classes] with at least 2 classes, "
            f"received {list(output_shape)}.",
            remedy="Use binary_crossentropy for one yes/no unit, or give the last layer a unit per class.",
        )


def _require_smoothing(name: str, label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise LossError(f"{name} expects a label_smoothing in [0, 1), received {label_smoothing}.")
