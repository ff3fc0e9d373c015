"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) as Keras writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from ...errors import OptimizerError
from .optimizer import Optimizer, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam(Optimizer):
    """Adaptive moments.

    The slots hold m / (1 - beta_1) and v / (1 - beta_2): the recurrences become `m <- beta_1 * m + g` and
    `v <- beta_2 * v + g * g`, two passes over memory fewer, and the constants move into scalars.

    Attributes:
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment before its bias correction, as Keras does.
    """

    name: ClassVar[str] = "adam"
    default_learning_rate: ClassVar[float] = 0.001
    slot_count: ClassVar[int] = 2

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        Optimizer.__post_init__(self)
        if not (0.0 <= self.beta_1 < 1.0 and 0.0 <= self.beta_2 < 1.0):
            raise OptimizerError(
                f"{self.name} expects beta_1 and beta_2 in [0, 1), received {self.beta_1} and {self.beta_2}."
            )
        if self.epsilon <= 0:
            raise OptimizerError(f"{self.name} expects epsilon > 0, received {self.epsilon}.")

    def scalars(self, learning_rate: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The step size with both bias corrections and both slot scales in it."""
        correction = tf.sqrt(1.0 - tf.pow(self.beta_2, step)) / (1.0 - tf.pow(self.beta_1, step))
        return (learning_rate * correction * ((1.0 - self.beta_1) / (1.0 - self.beta_2) ** 0.5),)

    def decays(self) -> tuple[float, ...]:
        """The two betas."""
        return (self.beta_1, self.beta_2)

    def rule(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        decays: tuple[tf.Tensor, ...],
        scalars: tuple[tf.Tensor, ...],
    ) -> Update:
        """See `Optimizer.rule`; the second moment is a sum of squares already."""
        first = slots[0] * decays[0] + gradient
        second = slots[1] * decays[1] + gradient * gradient
        epsilon = self.epsilon / (1.0 - self.beta_2) ** 0.5
        new = weight - first * scalars[0] / (tf.sqrt(second) + epsilon)
        return Update(new, (first, second), tf.reduce_sum(second))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    name: ClassVar[str] = "adamw"

    weight_decay: float | None = 0.004
