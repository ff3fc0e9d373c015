"""The long short-term memory cell (Hochreiter and Schmidhuber, 1997); Keras orders its gates i, f, c, o."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from .activation import Activation
from .formula import CellWeights, Step, Tensors, batched_product, product, turned_with_bias


@dataclass(frozen=True, slots=True)
class LstmFormula:
    """An LSTM cell; its states are the output h and the carry c.

    The weights are rearranged to i, f, o, c, so that one operator activates three gates.

    Attributes:
        units: Width of each state.
        activation: Applied to the candidate and to the carry.
        recurrent_activation: Applied to the three gates.
    """

    units: int
    activation: Activation
    recurrent_activation: Activation

    @property
    def state_count(self) -> int:
        """Number of states: h and c."""
        return 2

    def _swap(self, columns: tf.Tensor) -> tf.Tensor:
        """Turns columns ordered i, f, c, o into i, f, o, c and the other way round."""
        units = self.units
        return tf.concat(
            [columns[:, : 2 * units], columns[:, 3 * units :], columns[:, 2 * units : 3 * units]], 1
        )

    def forward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges all weights as one matrix ``[4 * units, units + features + 1]``."""
        rows, units = turned_with_bias(weights), self.units
        return (tf.concat([rows[: 2 * units], rows[3 * units :], rows[2 * units : 3 * units]], 0),)

    def backward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges the recurrent weights as ``[units, 4 * units]``."""
        return (self._swap(weights.recurrent),)

    def step(self, weights: Tensors, x: tf.Tensor, states: Tensors) -> Step:
        """Computes ``c' = f * c + i * g`` and ``h' = o * activation(c')``."""
        h, c = states
        operand = tf.concat([h, x], 0)
        z = product(weights[0], operand)
        gates = self.recurrent_activation.value(z[: 3 * self.units])
        candidate = self.activation.value(z[3 * self.units :])
        i, f, o = tf.split(gates, 3, 0)
        carry = f * c + i * candidate
        squashed = self.activation.value(carry)
        return Step((o * squashed, carry), (operand,), (gates, candidate, c, squashed))

    def factors(self, kept: Tensors) -> Tensors:
        """Computes by what the gradients of h and c are multiplied on their way to the gates."""
        gates, candidate, carry, squashed = kept
        i, f, o = tf.split(gates, 3, 1)
        slope_i, slope_f, slope_o = tf.split(self.recurrent_activation.slope(gates), 3, 1)
        to_carry = o * self.activation.slope(squashed)
        to_gates = tf.concat(
            [candidate * slope_i, carry * slope_f, squashed * slope_o, i * self.activation.slope(candidate)],
            1,
        )
        return to_carry, to_gates, f

    def step_back(self, weights: Tensors, factors: Tensors, gradients: Tensors) -> tuple[Tensors, tf.Tensor]:
        """Carries the gradients of h and c one step back."""
        to_carry, to_gates, f = factors
        dh, dc = gradients
        dc += dh * to_carry
        dz = tf.concat([dc, dc, dh, dc], 0) * to_gates
        return (product(weights[0], dz), dc * f), dz

    def weight_gradients(self, operands: Tensors, gates: tf.Tensor, weights: CellWeights) -> CellWeights:
        """Computes all weight gradients with one product over all steps."""
        total = self._swap(batched_product(operands[0], gates, transpose_b=True))
        units = self.units
        bias = None if weights.bias is None else tf.reshape(total[-1:], [-1])
        return CellWeights(total[units:-1], total[:units], bias)

    def input_gradient(self, gates: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """Multiplies the gates' gradients with the kernel."""
        return product(self._swap(weights.kernel), gates)
