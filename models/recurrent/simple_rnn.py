"""The fully connected recurrent cell: ``h' = activation(W x + R h + b)``."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from .activation import Activation
from .formula import CellWeights, Step, Tensors, batched_product, product, turned_with_bias


@dataclass(frozen=True, slots=True)
class SimpleRnnFormula:
    """A SimpleRNN cell; its state is its output.

    Attributes:
        units: Width of the state.
        activation: Applied to the sum.
    """

    units: int
    activation: Activation

    @property
    def state_count(self) -> int:
        """Number of states: h."""
        return 1

    def forward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges all weights as one matrix ``[units, units + features + 1]``."""
        return (turned_with_bias(weights),)

    def backward_weights(self, weights: CellWeights) -> Tensors:
        """Takes the recurrent weights as they are."""
        return (weights.recurrent,)

    def step(self, weights: Tensors, x: tf.Tensor, states: Tensors) -> Step:
        """Computes the new output."""
        operand = tf.concat([states[0], x], 0)
        h = self.activation.value(batched_product(weights[0], operand))
        return Step((h,), (operand,), (h,))

    def factors(self, kept: Tensors) -> Tensors:
        """Computes the slopes of the activation."""
        return (self.activation.slope(kept[0]),)

    def step_back(self, weights: Tensors, factors: Tensors, gradients: Tensors) -> tuple[Tensors, tf.Tensor]:
        """Carries the gradient of h one step back."""
        dz = gradients[0] * factors[0]
        return (product(weights[0], dz),), dz

    def weight_gradients(self, operands: Tensors, gates: tf.Tensor, weights: CellWeights) -> CellWeights:
        """Computes all weight gradients with one product over all steps."""
        total = batched_product(operands[0], gates, transpose_b=True)
        bias = None if weights.bias is None else tf.reshape(total[-1:], [-1])
        return CellWeights(total[self.units : -1], total[: self.units], bias)

    def input_gradient(self, gates: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """Multiplies the gates' gradients with the kernel."""
        return product(weights.kernel, gates)
