"""What a loss is inside a trainable graph: a value per example and its gradient, in built-in operators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from ...errors import LossError


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(ABC):
    """A loss with one value per example, written so that value and gradient convert to TFLite built-ins.

    Attributes:
        from_logits: The model's output is logits (what comes before `activation`), not probabilities.
    """

    name: ClassVar[str]
    activation: ClassVar[str | None] = None
    """The Keras activation before which this loss prefers to read: faster, and exact where it saturates."""

    from_logits: bool = False

    @abstractmethod
    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """The targets that go with outputs of the static shape `output_shape` (with the batch).

        Raises:
            LossError: The loss has no meaning for such an output.
        """

    @abstractmethod
    def per_example(
        self, y: tf.Tensor, output: tf.Tensor, weight: tf.Tensor, *, from_logits: bool = False
    ) -> tf.Tensor:
        """The loss of each example, float32 [B], differentiable in `output`.

        Args:
            y: Targets as `target_spec` says.
            output: The model's output, float32 [B, ...]; its logits when `from_logits`.
            weight: float32 [B]; rows of weight 0 must not influence the other rows.
            from_logits: `output` is what comes before `activation`.
        """

    def label_count(self, output_shape: Sequence[int]) -> int | None:
        """How many integer labels there are (0 to one less), or None where targets are not labels."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLoss(Loss):
    """A loss whose value for an example depends on that example alone."""

    @abstractmethod
    def value_and_gradient(
        self, y: tf.Tensor, output: tf.Tensor, from_logits: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The losses [B], and the derivative of each by its own row of `output` (shaped as `output`)."""

    def per_example(
        self, y: tf.Tensor, output: tf.Tensor, weight: tf.Tensor, *, from_logits: bool = False
    ) -> tf.Tensor:
        """See `Loss.per_example`; the gradient is the closed form, not what autodiff would emit."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def losses(output: tf.Tensor) -> tuple[tf.Tensor, Any]:
            value, gradient = self.value_and_gradient(y, output, from_logits)

            def backward(upstream: tf.Tensor) -> tf.Tensor:
                # Rank 2, because a broadcast of rank 5 aborts tflite-runtime 2.14.
                rows = tf.reshape(gradient, [output.shape[0], -1]) * tf.reshape(upstream, [-1, 1])
                return tf.reshape(rows, output.shape)

            return value, backward

        return losses(output)


class WeightedLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        mean: The weighted sum over the number of rows whose weight is not 0: what training minimizes. Keras
            divides in the same way: by the size of the batch, not by the sum of the weights.
        sum: The weighted sum, which adds up over batches.
        per_example: float32 [B], unweighted; 0 in rows of weight 0.
    """

    mean: tf.Tensor
    sum: tf.Tensor
    per_example: tf.Tensor


def weighted(
    loss: Loss, y: tf.Tensor, output: tf.Tensor, weight: tf.Tensor, *, from_logits: bool = False
) -> WeightedLoss:
    """The loss of a batch in which rows of weight 0 count for nothing, whatever they hold.

    Such rows of `y` and `output` are replaced by zeros before the loss sees them, so that a NaN in one
    reaches neither the value nor the gradient at `output`.
    """
    y, output = mask_rows(y, weight), mask_rows(output, weight)
    per_example = mask_rows(loss.per_example(y, output, weight, from_logits=from_logits), weight)
    total = tf.reduce_sum(per_example * weight)
    return WeightedLoss(total / tf.maximum(example_count(weight), 1.0), total, per_example)


def example_count(weight: tf.Tensor) -> tf.Tensor:
    """The number of rows whose weight is not 0, float32 []."""
    return tf.reduce_sum(tf.cast(tf.not_equal(weight, 0.0), tf.float32))


def mask_rows(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """`x` [B, ...] with zeros in the rows whose `weight` [B] is 0; also their gradient is exactly 0.

    SELECT with a condition of rank 1 copies row by row; SELECT_V2 would broadcast element by element.
    """
    # The raw ZEROS_LIKE, because `tf.zeros` would be stored in the file, as large as `x`.
    return tf.raw_ops.Select(condition=tf.not_equal(weight, 0.0), x=x, y=tf.raw_ops.ZerosLike(x=x))


def same_shape_spec(name: str, output_shape: Sequence[int]) -> tf.TensorSpec:
    """Float targets shaped as the output, which must have a batch and at least one more axis.

    Raises:
        LossError: The output has no axis besides the batch.
    """
    if len(output_shape) < 2:
        raise LossError(
            f"{name} expects an output of shape [batch, ..., features], received {list(output_shape)}.",
            remedy="End the model in a layer with at least one unit.",
        )
    return tf.TensorSpec(list(output_shape), tf.float32)
