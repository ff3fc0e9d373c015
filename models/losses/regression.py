"""Losses between arrays of the same shape, averaged per example as Keras's functions of the same names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from ...errors import LossError
from .loss import RowLoss, same_shape_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class _ElementLoss(RowLoss):
    """A mean over the elements of an example of a function of their errors."""

    def __post_init__(self) -> None:
        if self.from_logits:
            raise LossError(f"{self.name} has no logits; expected from_logits=False, received True.")

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """float32 of the output's shape."""
        return same_shape_spec(self.name, output_shape)

    @abstractmethod
    def of_error(self, error: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The function of `output - y`, and its derivative."""

    def value_and_gradient(
        self, y: tf.Tensor, output: tf.Tensor, from_logits: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `RowLoss.value_and_gradient`."""
        error = tf.reshape(output - y, [output.shape[0], -1])
        values, slopes = self.of_error(error)
        return tf.reduce_mean(values, 1), slopes * (1.0 / error.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError(_ElementLoss):
    """The mean of squared errors."""

    name: ClassVar[str] = "mean_squared_error"

    def of_error(self, error: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """e^2 and 2e."""
        return error * error, error + error


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAbsoluteError(_ElementLoss):
    """The mean of absolute errors."""

    name: ClassVar[str] = "mean_absolute_error"

    def of_error(self, error: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """|e| and its sign, 0 at 0."""
        return tf.abs(error), tf.sign(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Huber(_ElementLoss):
    """Quadratic up to `delta`, linear beyond.

    Attributes:
        delta: Where the two meet, above 0.
    """

    name: ClassVar[str] = "huber"

    delta: float = 1.0

    def __post_init__(self) -> None:
        _ElementLoss.__post_init__(self)
        if not self.delta > 0:
            raise LossError(f"huber expects delta > 0, received {self.delta}.")

    def of_error(self, error: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """With c = min(|e|, delta): c (|e| - c/2), which is both branches at once, and the clipped error."""
        size = tf.abs(error)
        within = tf.minimum(size, self.delta)
        return within * (size - 0.5 * within), tf.sign(error) * within


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineSimilarity(RowLoss):
    """Minus the cosine of target and output along the last axis; 0, like its gradient, for a zero vector."""

    name: ClassVar[str] = "cosine_similarity"

    def __post_init__(self) -> None:
        if self.from_logits:
            raise LossError("cosine_similarity has no logits; expected from_logits=False, received True.")

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """float32 of the output's shape."""
        return same_shape_spec(self.name, output_shape)

    def value_and_gradient(
        self, y: tf.Tensor, output: tf.Tensor, from_logits: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """-a.b of the unit vectors a, b of target and output, and -(a - (a.b) b) / |output|."""
        features = output.shape[-1]
        target, _ = _unit(tf.reshape(y, [-1, features]))
        direction, inverse = _unit(tf.reshape(output, [-1, features]))
        cosine = tf.reduce_sum(target * direction, -1, keepdims=True)
        by_example = tf.reshape(cosine, [output.shape[0], -1])
        gradient = (direction * cosine - target) * (inverse * (1.0 / by_example.shape[1]))
        return -tf.reduce_mean(by_example, 1), gradient


def _unit(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each row of [N, F] over its length, and one over that length [N, 1]; both 0 below a length of 1e-7."""
    squares = tf.reduce_sum(rows * rows, -1, keepdims=True)
    inverse = tf.math.rsqrt(tf.maximum(squares, 1e-14)) * tf.sign(tf.nn.relu(squares - 1e-14))
    return rows * inverse, inverse
