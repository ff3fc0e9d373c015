"""What an optimizer is inside a trainable graph: a rule per weight, and the step that guards and stores it.

An optimizer passes over every weight in every step, so its passes over memory are counted: the finite check
is one sum of squares, of which Adam has the squares anyway, and the choice between old and new value a SELECT
with a scalar condition, which copies. Slots are never stored as zeros: until a weight's first step its slots
count for nothing, so they begin as copies of the weight, which the file holds only once, and `reset` writes
two small tensors.

XNNPACK clamps what it computes to float32's range, so on a device an infinity may arrive as 3.4e38, and two
of opposite sign add up to 0. The check is therefore that a sum of squares stays below a limit, which NaN does
not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from ...errors import OptimizerError

LIMIT = 1e37
"""What the sum of squares of a step has to stay below: a clamped infinity squared is 3.4e38."""


class Update(NamedTuple):
    """What a rule makes of one weight.

    Attributes:
        weight: The new weight.
        slots: The new slots, in the rule's order.
        size: float32 [], a sum of squares, huge or NaN if the gradient, the new weight or a new slot is.
    """

    weight: tf.Tensor
    slots: tuple[tf.Tensor, ...]
    size: tf.Tensor


@dataclass(frozen=True, slots=True)
class Slots:
    """The state of an optimizer for a list of weights.

    Attributes:
        iterations: float32 [], steps since `reset`; float32 counts exactly to 16 million.
        started: float32 [n], 1 for each weight that was updated since `reset`.
        of: For each weight, its slot variables.
        anchors: For each weight, its value in the last global model; empty without a proximal term.
        index: The place of a weight, by `Variable.ref()`.
    """

    iterations: tf.Variable
    started: tf.Variable
    of: tuple[tuple[tf.Variable, ...], ...]
    anchors: tuple[tf.Variable, ...]
    index: Mapping[object, int]

    @property
    def variables(self) -> list[tf.Variable]:
        """Every variable here, for a `tf.Module` to track."""
        return [self.iterations, self.started, *(slot for slots in self.of for slot in slots), *self.anchors]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer(ABC):
    """Base of the optimizers; formulas, epsilon and order of operations are those of Keras 3.

    Attributes:
        weight_decay: Keras's decoupled decay: weights first shrink by this times the learning rate.
        global_clipnorm: Gradients are scaled so that their joint L2 norm is at most this.
        proximal: `train` takes `proximal_mu`, the weight of FedProx's term mu/2 |w - w_global|^2.
    """

    name: ClassVar[str]
    default_learning_rate: ClassVar[float]
    slot_count: ClassVar[int]

    weight_decay: float | None = None
    global_clipnorm: float | None = None
    proximal: bool = False

    def __post_init__(self) -> None:
        if self.weight_decay is not None and self.weight_decay < 0:
            raise OptimizerError(f"{self.name} expects weight_decay >= 0, received {self.weight_decay}.")
        if self.global_clipnorm is not None and self.global_clipnorm <= 0:
            raise OptimizerError(f"{self.name} expects global_clipnorm > 0, received {self.global_clipnorm}.")

    @abstractmethod
    def scalars(self, learning_rate: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What the rule needs and all weights share, float32 []; `step` counts from 1."""

    @abstractmethod
    def decays(self) -> tuple[float, ...]:
        """How much of each slot survives a step; the rule receives 0 instead while the slot is fresh."""

    @abstractmethod
    def rule(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: tuple[tf.Tensor, ...],
        decays: tuple[tf.Tensor, ...],
        scalars: tuple[tf.Tensor, ...],
    ) -> Update:
        """The new weight and slots of one weight."""

    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The scalars that `train` takes for this optimizer."""
        names = ["learning_rate", *(["proximal_mu"] if self.proximal else [])]
        return {name: tf.TensorSpec([], tf.float32, name=name) for name in names}

    def slots(self, variables: Sequence[tf.Variable]) -> Slots:
        """Make the state for all weights that any step will train; call once, outside the graph."""

        def copy(variable: tf.Variable, role: str) -> tf.Variable:
            name = f"{variable.name.split(':')[0]}/{role}"
            return tf.Variable(_flat(variable.read_value()), trainable=False, name=name)

        return Slots(
            iterations=tf.Variable(0.0, trainable=False, name="iterations"),
            started=tf.Variable(tf.zeros([len(variables)]), trainable=False, name="started"),
            of=tuple(tuple(copy(v, f"slot{i}") for i in range(self.slot_count)) for v in variables),
            anchors=tuple(copy(v, "anchor") for v in variables) if self.proximal else (),
            index={variable.ref(): place for place, variable in enumerate(variables)},
        )

    def reset(self, slots: Slots) -> None:
        """Forget everything: to be traced into `reset`. The proximal anchor stays."""
        slots.iterations.assign(0.0)
        slots.started.assign(tf.zeros(slots.started.shape))

    def set_anchor(self, slots: Slots, variables: Sequence[tf.Variable]) -> None:
        """Take the present weights as the global model; to be traced into `set_weights`."""
        if self.proximal:
            for variable in variables:
                slots.anchors[slots.index[variable.ref()]].assign(_flat(variable.read_value()))

    def apply(
        self,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[tf.Variable],
        slots: Slots,
        inputs: Mapping[str, tf.Tensor],
        *,
        loss: tf.Tensor,
        updates: Sequence[tuple[tf.Variable, tf.Tensor]] = (),
    ) -> dict[str, tf.Tensor]:
        """One step, to be traced into `train`.

        A loss, gradient, input or new value that is not finite, or whose square is not, leaves every weight,
        slot and moving statistic as it was, bit for bit, and the step uncounted.

        Args:
            gradients: One per variable, dense; None leaves its variable alone.
            variables: Weights that `slots` was made for, or some of them.
            slots: The state.
            inputs: The scalars named by `inputs()`.
            loss: float32 [], checked with the gradients.
            updates: Variables and their new values (moving statistics) that share the step's fate.

        Returns:
            `finite`: 1 if the step was made, 0 if it was undone.
        """
        trained = [(_flat(g), v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        places = [slots.index[variable.ref()] for _, variable in trained]
        weights = [_flat(variable.read_value()) for _, variable in trained]
        descent = [gradient for gradient, _ in trained]
        if self.proximal:
            descent = [
                gradient + (weight - slots.anchors[place]) * inputs["proximal_mu"]
                for gradient, weight, place in zip(descent, weights, places, strict=True)
            ]
        sizes = [loss * loss, *(value * value for value in inputs.values())]
        if self.global_clipnorm is not None and descent:
            descent, squares = _clip_by_global_norm(descent, self.global_clipnorm)
            sizes.append(squares)

        learning_rate, step = inputs["learning_rate"], slots.iterations + 1.0
        scalars, decays = self.scalars(learning_rate, step), self._decays_in_force(slots)
        changes: list[_Change] = []
        for gradient, (_, variable), weight, place in zip(descent, trained, weights, places, strict=True):
            decayed = weight - weight * (self.weight_decay * learning_rate) if self.weight_decay else weight
            held = tuple(slot.read_value() for slot in slots.of[place])
            update = self.rule(gradient, decayed, held, decays[place], scalars)
            sizes.append(update.size)
            changes.append(_Change(variable, weight, update.weight))
            changes += map(_Change, slots.of[place], held, update.slots)
        for variable, value in updates:
            sizes.append(tf.reduce_sum(value * value))
            changes.append(_Change(variable, _flat(variable.read_value()), _flat(value)))
        if self.slot_count:
            changes += _count(slots, places, step)
        return {"finite": _store(changes, tf.add_n(sizes) < LIMIT)}

    def _decays_in_force(self, slots: Slots) -> list[tuple[tf.Tensor, ...]]:
        """For each weight its decays, 0 before its first step; one product per slot for all weights."""
        if not self.slot_count:
            return [()] * len(slots.of)
        return list(zip(*(tf.unstack(slots.started * decay) for decay in self.decays()), strict=True))


class _Change(NamedTuple):
    variable: tf.Variable
    old: tf.Tensor
    new: tf.Tensor


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor, as a vector if its rank is above 4: times a scalar it would abort tflite-runtime 2.14."""
    return tf.reshape(tensor, [-1]) if tensor.shape.rank > 4 else tensor


def _clip_by_global_norm(gradients: list[tf.Tensor], limit: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """The gradients scaled to a joint L2 norm of at most `limit`, and the square of the norm they had."""
    squares = tf.add_n([tf.reduce_sum(gradient * gradient) for gradient in gradients])
    scale = limit / tf.maximum(tf.sqrt(squares), limit)
    return [gradient * scale for gradient in gradients], squares


def _count(slots: Slots, places: Sequence[int], step: tf.Tensor) -> list[_Change]:
    """The changes of the counters after a step that trained the weights at `places`."""
    stepped = [1.0 if place in places else 0.0 for place in range(len(slots.of))]
    started = slots.started.read_value()
    return [
        _Change(slots.started, started, tf.maximum(started, stepped)),
        _Change(slots.iterations, slots.iterations.read_value(), step),
    ]


def _store(changes: Sequence[_Change], finite: tf.Tensor) -> tf.Tensor:
    """Assign every new value if `finite`, else every old one; returns that as 1.0 or 0.0.

    No value is assigned before all are chosen: a read after an assignment would see the new one.
    """
    chosen = [tf.raw_ops.Select(condition=finite, x=change.new, y=change.old) for change in changes]
    for change, value in zip(changes, chosen, strict=True):
        change.variable.assign(tf.reshape(value, change.variable.shape))
    return tf.cast(finite, tf.float32)
