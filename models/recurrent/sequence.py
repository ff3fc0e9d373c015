"""A recurrent layer over a whole sequence: the passes of its cell, as one differentiable function.

The gradient of every weight is one product over all steps after the loop back, instead of a sum that grows
step by step, and what the activations contribute is computed for a block of steps at once. What remains in
the loop back is one product and a handful of elementwise operators per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from .blocks import Blocks
from .formula import CellWeights, Formula, Tensors
from .passes import Passes


@dataclass(frozen=True, slots=True)
class Kept:
    """What the forward pass over a sequence leaves for the backward pass.

    Attributes:
        operands: What the weights were multiplied with, each ``[rows, steps * batch]``.
        blocks: What each block kept.
    """

    operands: Tensors
    blocks: tuple[Tensors, ...]


@dataclass(frozen=True, slots=True)
class SequenceLayer:
    """A cell applied to sequences, batch last.

    Attributes:
        formula: The cell.
        blocks: How it is written down.
        mask: ``[steps, 1, batch]``, 1 where a step counts and 0 where the states stay as they are, or None.
        return_sequences: Whether the outputs of all steps are wanted.
    """

    formula: Formula
    blocks: Blocks
    mask: tf.Tensor | None
    return_sequences: bool

    def run(
        self, x: tf.Tensor, states: Sequence[tf.Tensor], weights: CellWeights
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Runs the cell over a sequence; ``tf.gradients`` finds its way back through built-in operators.

        Args:
            x: ``[steps, features, batch]``.
            states: The initial states, each ``[units, batch]``.
            weights: The cell's weights as Keras keeps them.

        Returns:
            The outputs ``[steps, units, batch]`` or None, and the final states.
        """
        count = self.formula.state_count
        given = [x, *states, weights.kernel, weights.recurrent]
        if weights.bias is not None:
            given.append(weights.bias)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def layer(*given: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
            x, states, own = given[0], given[1 : 1 + count], _weights(given[1 + count :])
            results, kept = self._forward(x, states, own)

            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                d_states, gates = self._backward(upstream, kept, own)
                found = self.formula.weight_gradients(kept.operands, gates, own)
                d_weights = [found.kernel, found.recurrent, *([] if found.bias is None else [found.bias])]
                return [self._input_gradient(gates, own, x), *d_states, *d_weights]

            return results, gradient

        results = layer(*given)
        return (results[0] if self.return_sequences else None), tuple(results[-count:])

    def _passes(self, keep: bool) -> Passes:
        return Passes(self.formula, self.mask is not None, self.return_sequences, keep)

    def _forward(self, x: tf.Tensor, states: Tensors, weights: CellWeights) -> tuple[list[tf.Tensor], Kept]:
        passes = self._passes(self.blocks.gradients)
        arranged = self.formula.forward_weights(weights)
        steps, _, batch = x.shape
        x = tf.concat([x, tf.ones([steps, 1, batch], x.dtype)], 1)
        outputs: list[tf.Tensor] = []
        operands, kept = [], []
        for first, last in self.blocks.bounds(steps):
            mask = None if self.mask is None else self.mask[first:last]
            block = self.blocks.forward(passes, steps, arranged, states, x[first:last], mask)
            states = block.states
            outputs.extend(block.outputs)
            operands.append(block.operands)
            kept.append(block.kept)
        joined = tuple(tf.concat(column, 1) for column in zip(*operands, strict=True))
        return [*([tf.concat(outputs, 0)] if outputs else []), *states], Kept(joined, tuple(kept))

    def _backward(
        self, upstream: Sequence[tf.Tensor], kept: Kept, weights: CellWeights
    ) -> tuple[Tensors, tf.Tensor]:
        passes = self._passes(True)
        arranged = self.formula.backward_weights(weights)
        d_outputs = upstream[0] if self.return_sequences else None
        gradients = tuple(upstream[-self.formula.state_count :])
        steps = sum(block[0].shape[0] for block in kept.blocks)
        gates = []
        for (first, last), block in reversed(list(zip(self.blocks.bounds(steps), kept.blocks, strict=True))):
            mask = None if self.mask is None else self.mask[first:last]
            d_block = None if d_outputs is None else d_outputs[first:last]
            gradients, gate = self.blocks.backward(passes, steps, arranged, gradients, d_block, mask, block)
            gates.append(gate)
        return gradients, tf.concat(gates[::-1], 1)

    def _input_gradient(self, gates: tf.Tensor, weights: CellWeights, x: tf.Tensor) -> tf.Tensor:
        steps, features, batch = x.shape
        flat = self.formula.input_gradient(gates, weights)
        return tf.transpose(tf.reshape(flat, [features, steps, batch]), [1, 0, 2])


def _weights(tensors: Sequence[tf.Tensor]) -> CellWeights:
    return CellWeights(tensors[0], tensors[1], tensors[2] if len(tensors) == 3 else None)
