"""Gradient descent, plain, with momentum, and with Nesterov's momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from ...errors import OptimizerError
from .optimizer import Optimizer, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD(Optimizer):
    """w <- w - learning_rate * g, without state."""

    name: ClassVar[str] = "sgd"
    default_learning_rate: ClassVar[float] = 0.01
    slot_count: ClassVar[int] = 0

    def scalars(self, learning_rate: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The learning rate."""
        return (learning_rate,)

    def decays(self) -> tuple[float, ...]:
        """None: there are no slots."""
        return ()

    def rule(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        decays: tuple[tf.Tensor, ...],
        scalars: tuple[tf.Tensor, ...],
    ) -> Update:
        """See `Optimizer.rule`."""
        new = weight - gradient * scalars[0]
        return Update(new, (), tf.reduce_sum(new * new))


@dataclass(frozen=True, slots=True, kw_only=True)
class Momentum(SGD):
    """m <- momentum * m - learning_rate * g; w <- w + m, or w + momentum * m - learning_rate * g (Nesterov).

    Attributes:
        momentum: In (0, 1].
        nesterov: Look ahead by one step of momentum.
    """

    name: ClassVar[str] = "momentum"
    slot_count: ClassVar[int] = 1

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        Optimizer.__post_init__(self)
        if not 0.0 < self.momentum <= 1.0:
            raise OptimizerError(f"{self.name} expects momentum in (0, 1], received {self.momentum}.")

    def decays(self) -> tuple[float, ...]:
        """The momentum."""
        return (self.momentum,)

    def rule(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        decays: tuple[tf.Tensor, ...],
        scalars: tuple[tf.Tensor, ...],
    ) -> Update:
        """See `Optimizer.rule`."""
        descent = gradient * scalars[0]
        velocity = slots[0] * decays[0] - descent
        new = weight + (velocity * self.momentum - descent if self.nesterov else velocity)
        return Update(new, (velocity,), tf.reduce_sum(new * new))
