"""The gated recurrent unit (Cho et al., 2014) in Keras's order of gates: z, r, h.

With ``reset_after`` (the form of cuDNN) the candidate is ``activation(W x + b + r * (R h + b'))``, without it
``activation(W x + R (r * h) + b)``. The output is ``z * h + (1 - z) * candidate``.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from .activation import Activation
from .formula import CellWeights, Step, Tensors, batched_product, product, turned, turned_with_bias


@dataclass(frozen=True, slots=True)
class GruResetAfterFormula:
    """A GRU cell that resets after the product; its state is its output.

    Attributes:
        units: Width of the state.
        activation: Applied to the candidate.
        recurrent_activation: Applied to the update and the reset gate.
    """

    units: int
    activation: Activation
    recurrent_activation: Activation

    @property
    def state_count(self) -> int:
        """Number of states: h."""
        return 1

    def forward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges the weights of z, r and the inner sum, and those of x for the candidate."""
        units, kernel = self.units, weights.kernel
        bias = weights.bias
        if bias is None:
            bias = tf.zeros([2, 3 * units], kernel.dtype)
        both = tf.concat([bias[:1, : 2 * units] + bias[1:, : 2 * units], bias[1:, 2 * units :]], 1)
        zero = tf.zeros([kernel.shape[0], units], kernel.dtype)
        inputs = tf.concat([kernel[:, : 2 * units], zero], 1)
        candidate = turned(kernel[:, 2 * units :], bias[:1, 2 * units :])
        return turned(weights.recurrent, inputs, both), candidate

    def backward_weights(self, weights: CellWeights) -> Tensors:
        """Takes the recurrent weights as they are."""
        return (weights.recurrent,)

    def step(self, weights: Tensors, x: tf.Tensor, states: Tensors) -> Step:
        """Computes the new output."""
        h, units = states[0], self.units
        operand = tf.concat([h, x], 0)
        sums = product(weights[0], operand)
        gates = self.recurrent_activation.value(sums[: 2 * units])
        inner = sums[2 * units :]
        z, r = tf.split(gates, 2, 0)
        candidate = self.activation.value(product(weights[1], x) + r * inner)
        output = candidate + z * (h - candidate)
        return Step((output,), (operand,), (gates, inner, h, candidate))

    def factors(self, kept: Tensors) -> Tensors:
        """Computes by what the gradient of h is multiplied on its way to each sum."""
        gates, inner, h, candidate = kept
        z, r = tf.split(gates, 2, 1)
        slope_z, slope_r = tf.split(self.recurrent_activation.slope(gates), 2, 1)
        to_candidate = (1.0 - z) * self.activation.slope(candidate)
        to_gates = tf.concat(
            [(h - candidate) * slope_z, to_candidate * inner * slope_r, to_candidate * r, to_candidate], 1
        )
        return to_gates, z

    def step_back(self, weights: Tensors, factors: Tensors, gradients: Tensors) -> tuple[Tensors, tf.Tensor]:
        """Carries the gradient of h one step back."""
        to_gates, z = factors
        dh = gradients[0]
        gates = tf.concat([dh] * 4, 0) * to_gates
        return (product(weights[0], gates[: 3 * self.units]) + dh * z,), gates

    def weight_gradients(self, operands: Tensors, gates: tf.Tensor, weights: CellWeights) -> CellWeights:
        """Computes all weight gradients with one product over all steps."""
        units = self.units
        total = batched_product(operands[0], gates, transpose_b=True)
        from_inputs = tf.concat([total[:, : 2 * units], total[:, 3 * units :]], 1)
        from_state = total[:, : 3 * units]
        bias = None if weights.bias is None else tf.concat([from_inputs[-1:], from_state[-1:]], 0)
        return CellWeights(from_inputs[units:-1], from_state[:units], bias)

    def input_gradient(self, gates: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """Multiplies the gradients of z, r and the candidate with the kernel."""
        units = self.units
        return product(weights.kernel, tf.concat([gates[: 2 * units], gates[3 * units :]], 0))


@dataclass(frozen=True, slots=True)
class GruResetBeforeFormula:
    """A GRU cell that resets before the product; its state is its output.

    Attributes:
        units: Width of the state.
        activation: Applied to the candidate.
        recurrent_activation: Applied to the update and the reset gate.
    """

    units: int
    activation: Activation
    recurrent_activation: Activation

    @property
    def state_count(self) -> int:
        """Number of states: h."""
        return 1

    def forward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges the weights of z and r, and those of the candidate, each with their bias."""
        columns = turned_with_bias(weights)
        return columns[: 2 * self.units], columns[2 * self.units :]

    def backward_weights(self, weights: CellWeights) -> Tensors:
        """Takes the recurrent weights of z and r, and those of the candidate."""
        return weights.recurrent[:, : 2 * self.units], weights.recurrent[:, 2 * self.units :]

    def step(self, weights: Tensors, x: tf.Tensor, states: Tensors) -> Step:
        """Computes the new output."""
        h = states[0]
        operand = tf.concat([h, x], 0)
        gates = self.recurrent_activation.value(batched_product(weights[0], operand))
        z, r = tf.split(gates, 2, 0)
        reset = tf.concat([r * h, x], 0)
        candidate = self.activation.value(batched_product(weights[1], reset))
        output = candidate + z * (h - candidate)
        return Step((output,), (operand, reset), (gates, h, candidate))

    def factors(self, kept: Tensors) -> Tensors:
        """Computes by what the gradients of h and of ``r * h`` are multiplied on their way to the gates."""
        gates, h, candidate = kept
        z, r = tf.split(gates, 2, 1)
        slope_z, slope_r = tf.split(self.recurrent_activation.slope(gates), 2, 1)
        to_candidate = (1.0 - z) * self.activation.slope(candidate)
        return to_candidate, (h - candidate) * slope_z, h * slope_r, z, r

    def step_back(self, weights: Tensors, factors: Tensors, gradients: Tensors) -> tuple[Tensors, tf.Tensor]:
        """Carries the gradient of h one step back."""
        to_candidate, to_z, to_r, z, r = factors
        dh = gradients[0]
        d_candidate = dh * to_candidate
        d_reset = product(weights[1], d_candidate)
        d_gates = tf.concat([dh * to_z, d_reset * to_r], 0)
        d_previous = product(weights[0], d_gates) + d_reset * r + dh * z
        return (d_previous,), tf.concat([d_gates, d_candidate], 0)

    def weight_gradients(self, operands: Tensors, gates: tf.Tensor, weights: CellWeights) -> CellWeights:
        """Computes the gradients with one product for z and r, and one for the candidate."""
        units = self.units
        total = tf.concat(
            [
                batched_product(operands[0], gates[: 2 * units], transpose_b=True),
                batched_product(operands[1], gates[2 * units :], transpose_b=True),
            ],
            1,
        )
        bias = None if weights.bias is None else tf.reshape(total[-1:], [-1])
        return CellWeights(total[units:-1], total[:units], bias)

    def input_gradient(self, gates: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """Multiplies the gates' gradients with the kernel."""
        return product(weights.kernel, gates)
