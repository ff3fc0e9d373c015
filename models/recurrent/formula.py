"""What one recurrent cell computes, and its backward pass by hand.

Everything is laid out with the batch last: a state is ``[units, batch]``, the gates of a step
``[gates * units, batch]``. Gates are then rows, so that taking them apart and joining them copies contiguous
memory, and a step is the product of a weight matrix with a thin ``[rows, batch]`` matrix: the kernels
repack only the thin one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

Tensors = tuple[tf.Tensor, ...]


@dataclass(frozen=True, slots=True)
class CellWeights:
    """The weights of a cell as Keras keeps them.

    Attributes:
        kernel: ``[features, gates * units]``.
        recurrent: ``[units, gates * units]``.
        bias: ``[gates * units]``, or ``[2, gates * units]`` for a GRU with ``reset_after``, or None.
    """

    kernel: tf.Tensor
    recurrent: tf.Tensor
    bias: tf.Tensor | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a cell yields.

    Attributes:
        states: The new states, each ``[units, batch]``; the first is the output.
        operands: What the weights were multiplied with, ``[rows, batch]`` each; their products with the
            gradients of the gates, summed over all steps, are the gradients of the weights.
        kept: What the backward pass needs, ``[rows, batch]`` each.
    """

    states: Tensors
    operands: Tensors
    kept: Tensors


class Formula(Protocol):
    """One kind of cell. Implementations are frozen and hashable: equal formulas share their subgraphs."""

    @property
    def state_count(self) -> int:
        """Number of states."""

    def forward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges the weights for :meth:`step`, once for the whole sequence."""

    def backward_weights(self, weights: CellWeights) -> Tensors:
        """Arranges the weights for :meth:`step_back`, once for the whole sequence."""

    def step(self, weights: Tensors, x: tf.Tensor, states: Tensors) -> Step:
        """Computes one step from the input ``[features + 1, batch]``, whose last row is all ones."""

    def factors(self, kept: Tensors) -> Tensors:
        """Prepares the backward pass of several steps from what they kept, ``[steps, rows, batch]`` each."""

    def step_back(self, weights: Tensors, factors: Tensors, gradients: Tensors) -> tuple[Tensors, tf.Tensor]:
        """Computes the gradients of the previous states, and of the gates, from those of the new states."""

    def weight_gradients(self, operands: Tensors, gates: tf.Tensor, weights: CellWeights) -> CellWeights:
        """Computes the weights' gradients from all operands and gates, ``[rows, steps * batch]`` each."""

    def input_gradient(self, gates: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """Computes the gradient of the inputs ``[features, steps * batch]`` from that of the gates."""


def product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Multiplies two matrices; the fastest form, but no activation may follow it at once.

    The converter fuses RELU into a product of rank 2, turns that into BATCH_MATMUL, and there RELU is lost.
    """
    return tf.matmul(a, b)


def batched_product(a: tf.Tensor, b: tf.Tensor, *, transpose_b: bool = False) -> tf.Tensor:
    """Multiplies two matrices as a batch of one.

    With ``transpose_b`` a product of rank 2 would become FULLY_CONNECTED, which XNNPACK leaves alone when the
    weights are variable: three times slower.
    """
    rows, columns = a.shape[0], b.shape[0 if transpose_b else 1]
    batch = tf.matmul(tf.reshape(a, [1, *a.shape]), tf.reshape(b, [1, *b.shape]), transpose_b=transpose_b)
    return tf.reshape(batch, [rows, columns])


def turned(*parts: tf.Tensor) -> tf.Tensor:
    """Stacks matrices of equal width and transposes the stack: ``[width, rows of all]``.

    Each is transposed before they are joined. Were it the last step, the converter would make a flag of the
    product of it, and the weights would be transposed again at every time step.
    """
    return tf.concat([tf.transpose(part) for part in parts], 1)


def turned_with_bias(weights: CellWeights) -> tf.Tensor:
    """Stacks recurrent weights, kernel and bias, transposed: ``[gates * units, units + features + 1]``."""
    bias = weights.bias
    if bias is None:
        bias = tf.zeros([weights.kernel.shape[1]], weights.kernel.dtype)
    return turned(weights.recurrent, weights.kernel, tf.reshape(bias, [1, -1]))
