"""The forward and the backward pass over one block of steps."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from .formula import Formula, Tensors


@dataclass(frozen=True, slots=True)
class Passes:
    """Both passes of a cell over a block, as functions of tensors only; equal ones can share a subgraph.

    Attributes:
        formula: The cell.
        masked: Whether a mask ``[steps, 1, batch]`` follows the inputs.
        return_sequences: Whether the outputs of all steps are wanted.
        keep: Whether the forward pass keeps what the backward pass needs.
    """

    formula: Formula
    masked: bool
    return_sequences: bool
    keep: bool

    def forward(self, weights: Tensors, states: Tensors, x: tf.Tensor, mask: tf.Tensor | None) -> Forward:
        """Runs the steps of a block.

        Args:
            weights: From ``formula.forward_weights``.
            states: Each ``[units, batch]``.
            x: ``[steps, features + 1, batch]``, the last row all ones.
            mask: ``[steps, 1, batch]`` or None.
        """
        outputs, operands, kept = [], [], []
        masks = None if mask is None else tf.unstack(mask)
        for index, row in enumerate(tf.unstack(x)):
            step = self.formula.step(weights, row, states)
            states = step.states if masks is None else _blend(masks[index], step.states, states)
            outputs.append(states[0])
            operands.append(step.operands)
            kept.append(step.kept)
        return Forward(
            states=states,
            outputs=(tf.stack(outputs),) if self.return_sequences else (),
            operands=tuple(tf.concat(column, 1) for column in zip(*operands, strict=True))
            if self.keep
            else (),
            kept=tuple(tf.stack(column) for column in zip(*kept, strict=True)) if self.keep else (),
        )

    def backward(
        self,
        weights: Tensors,
        gradients: Tensors,
        d_outputs: tf.Tensor | None,
        mask: tf.Tensor | None,
        kept: Tensors,
    ) -> tuple[Tensors, tf.Tensor]:
        """Carries gradients from the end of a block to its beginning.

        Args:
            weights: From ``formula.backward_weights``.
            gradients: Of the states after the block, each ``[units, batch]``.
            d_outputs: Of the outputs ``[steps, units, batch]``, or None.
            mask: ``[steps, 1, batch]`` or None.
            kept: What the forward pass kept.

        Returns:
            The gradients of the states before the block, and of the gates ``[rows, steps * batch]``.
        """
        factors = list(zip(*(tf.unstack(factor) for factor in self.formula.factors(kept)), strict=True))
        upstream = None if d_outputs is None else tf.unstack(d_outputs)
        masks = None if mask is None else tf.unstack(mask)
        gates: list[tf.Tensor] = []
        for index in reversed(range(len(factors))):
            if upstream is not None:
                gradients = (gradients[0] + upstream[index], *gradients[1:])
            if masks is None:
                gradients, gate = self.formula.step_back(weights, factors[index], gradients)
            else:
                used = tuple(gradient * masks[index] for gradient in gradients)
                passed, gate = self.formula.step_back(weights, factors[index], used)
                gradients = tuple(p + g - u for p, g, u in zip(passed, gradients, used, strict=True))
            gates.append(gate)
        return gradients, tf.concat(gates[::-1], 1)


@dataclass(frozen=True, slots=True)
class Forward:
    """What the forward pass over a block, or over a sequence, yields.

    Attributes:
        states: The states at the end, each ``[units, batch]``.
        outputs: ``[steps, units, batch]``, if they are wanted.
        operands: What the weights were multiplied with, each ``[rows, steps * batch]``.
        kept: What the backward pass needs, each ``[steps, rows, batch]``.
    """

    states: Tensors
    outputs: Tensors
    operands: Tensors
    kept: Tensors


def _blend(mask: tf.Tensor, new: Tensors, old: Tensors) -> Tensors:
    """Takes the new states where the mask is 1, the old ones where it is 0, exactly."""
    return tuple(mask * after + (1.0 - mask) * before for after, before in zip(new, old, strict=True))
