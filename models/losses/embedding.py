"""Losses on embeddings of a labelled batch: examples of one label shall be near, others far.

They compare every example with every other of the batch; rows of weight 0 are nobody's neighbour. An
embedding model usually ends in a unit normalization: these losses take the output as it is. Distances come
from the differences, because |a|^2 + |b|^2 - 2ab loses small ones to cancellation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from ...errors import LossError
from .loss import Loss

FAR = 1e9
"""Put on pairs that do not count, so that no minimum picks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairLoss(Loss):
    """A loss of the matrix of squared distances within a batch.

    Attributes:
        margin: How much farther than its likes, or how far at all, an unlike example has to be.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        if self.from_logits:
            raise LossError(f"{self.name} has no logits; expected from_logits=False, received True.")
        if not self.margin > 0:
            raise LossError(f"{self.name} expects margin > 0, received {self.margin}.")

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """int32 [B], the label of each example."""
        if len(output_shape) != 2 or output_shape[0] < 2:
            raise LossError(
                f"{self.name} expects embeddings of shape [batch, features] and a batch of at least 2, "
                f"received {list(output_shape)}.",
                remedy="Flatten the embedding, and export with a larger batch_size.",
            )
        return tf.TensorSpec([output_shape[0]], tf.int32)

    @abstractmethod
    def of_distances(
        self, distance: tf.Tensor, like: tf.Tensor, unlike: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The losses [B], and the derivative of each, [B, B], by its row of `distance`.

        Args:
            distance: Euclidean distances, float32 [B, B].
            like: 1 for pairs of one label, 0 elsewhere and on the diagonal.
            unlike: 1 for pairs of two labels, else 0.
        """

    def per_example(
        self, y: tf.Tensor, output: tf.Tensor, weight: tf.Tensor, *, from_logits: bool = False
    ) -> tf.Tensor:
        """See `Loss.per_example`."""
        like, unlike = _pairs(y, weight)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def losses(output: tf.Tensor) -> tuple[tf.Tensor, Any]:
            difference = tf.expand_dims(output, 1) - tf.expand_dims(output, 0)
            distance = tf.sqrt(tf.reduce_sum(difference * difference, 2))
            value, by_distance = self.of_distances(distance, like, unlike)

            def backward(upstream: tf.Tensor) -> tf.Tensor:
                # d|a - b| = (a - b) / |a - b|, nothing where they coincide, and a pair moves both its ends.
                pull = by_distance * tf.reshape(upstream, [-1, 1]) * tf.sign(distance)
                pull = (pull + tf.transpose(pull)) / tf.maximum(distance, 1e-12)
                return tf.reduce_sum(tf.expand_dims(pull, 2) * difference, 1)

            return value, backward

        return losses(output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplet(_PairLoss):
    """max(0, distance to a like example - distance to an unlike one + margin), each example as the anchor.

    An anchor without a like or without an unlike example in the batch has loss 0.

    Attributes:
        mining: `hard` takes the farthest like and the nearest unlike example (Hermans, Beyer and Leibe 2017);
            `semihard` averages over all like examples, each against the nearest unlike one that is farther,
            or the farthest if none is (Schroff, Kalenichenko and Philbin 2015, in euclidean distances).
    """

    name: ClassVar[str] = "triplet"

    mining: str = "hard"

    def __post_init__(self) -> None:
        _PairLoss.__post_init__(self)
        if self.mining not in ("hard", "semihard"):
            raise LossError(f"triplet expects mining 'hard' or 'semihard', received {self.mining!r}.")

    def of_distances(
        self, distance: tf.Tensor, like: tf.Tensor, unlike: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `_PairLoss.of_distances`."""
        if self.mining == "hard":
            return self._hard(distance, like, unlike)
        return self._semihard(distance, like, unlike)

    def _hard(self, distance: tf.Tensor, like: tf.Tensor, unlike: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        farthest = _chosen(-distance, like)
        nearest = _chosen(distance, unlike)
        excess = tf.reduce_sum((farthest - nearest) * distance, 1, keepdims=True) + self.margin
        valid = tf.reduce_max(like, 1, keepdims=True) * tf.reduce_max(unlike, 1, keepdims=True)
        active = tf.sign(tf.nn.relu(excess)) * valid
        return tf.reshape(excess * active, [-1]), (farthest - nearest) * active

    def _semihard(
        self, distance: tf.Tensor, like: tf.Tensor, unlike: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows of [B * B, B] are (anchor, like example); columns are candidates for the unlike one."""
        size = distance.shape[0]
        positive = tf.reshape(distance, [size * size, 1])
        candidates = _each_row_repeated(distance, size)
        allowed = _each_row_repeated(unlike, size)
        farther = tf.sign(tf.nn.relu(candidates - positive)) * allowed
        exists = tf.reduce_max(farther, 1, keepdims=True)
        negative = _chosen(candidates, farther) * exists + _chosen(-candidates, allowed) * (1.0 - exists)
        excess = positive - tf.reduce_sum(negative * candidates, 1, keepdims=True) + self.margin
        pair = tf.reshape(like, [size * size, 1]) * tf.reduce_max(allowed, 1, keepdims=True)
        count = tf.maximum(tf.reduce_sum(like, 1, keepdims=True), 1.0)
        active = tf.sign(tf.nn.relu(excess)) * pair
        losses = tf.reduce_sum(tf.reshape(excess * active, [size, size]), 1, keepdims=True) / count
        by_negative = tf.reduce_sum(tf.reshape(negative * active, [size, size, size]), 1)
        return tf.reshape(losses, [-1]), (tf.reshape(active, [size, size]) - by_negative) / count


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive(_PairLoss):
    """distance^2 for like pairs, max(0, margin - distance)^2 for unlike ones (Hadsell et al. 2006).

    An example's loss is the mean over its pairs with all other examples of the batch.
    """

    name: ClassVar[str] = "contrastive"

    def of_distances(
        self, distance: tf.Tensor, like: tf.Tensor, unlike: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `_PairLoss.of_distances`."""
        short = tf.nn.relu(self.margin - distance)
        scale = 1.0 / tf.maximum(tf.reduce_sum(like + unlike, 1, keepdims=True), 1.0)
        values = like * distance * distance + unlike * short * short
        slopes = (like * distance - unlike * short) * (2.0 * scale)
        return tf.reduce_sum(values * scale, 1), slopes


def _pairs(y: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pairs of the batch have one label, and which have two, both float32 [B, B] of 0 and 1."""
    present = tf.cast(tf.not_equal(weight, 0.0), tf.float32)
    both = tf.reshape(present, [-1, 1]) * tf.reshape(present, [1, -1])
    both = both * (1.0 - tf.eye(weight.shape[0]))
    same = tf.cast(tf.equal(tf.reshape(y, [-1, 1]), tf.reshape(y, [1, -1])), tf.float32) * both
    return same, both - same


def _chosen(key: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """1 in each row at the allowed column with the smallest key (the first of equals), zeros if none is."""
    key = key * allowed + (1.0 - allowed) * FAR
    return tf.one_hot(tf.argmin(key, 1, output_type=tf.int32), key.shape[1]) * allowed


def _each_row_repeated(matrix: tf.Tensor, times: int) -> tf.Tensor:
    """[A, C] to [A * times, C] in which each row stands `times` times in a row."""
    rows, columns = matrix.shape
    return tf.reshape(tf.tile(tf.reshape(matrix, [rows, 1, columns]), [1, times, 1]), [rows * times, columns])
