"""How a sequence is cut into blocks of steps, and how one subgraph of the file serves all blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from .formula import Tensors
from .passes import Forward, Passes


@dataclass(frozen=True, slots=True)
class Blocks:
    """The way in which recurrent layers are written into a graph.

    Attributes:
        gradients: Whether a backward pass follows; without one nothing is kept for it.
        unrolled_steps: The longest sequence that is written out in full. Longer ones are cut into blocks that
            share one subgraph, called by IF with equal branches: LiteRT prepares the subgraph anew at each
            call (a third slower at 50 steps; no loss on tflite-runtime 2.14), but the file and the time to
            convert hardly grow with the length.
        block_steps: Steps in a block.
    """

    gradients: bool
    unrolled_steps: int
    block_steps: int
    _functions: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def bounds(self, steps: int) -> list[tuple[int, int]]:
        """Cuts a sequence into blocks; all but the first are of equal length."""
        rest = steps % self.block_steps
        cuts = [*([0] if rest else []), *range(rest, steps + 1, self.block_steps)]
        return list(itertools.pairwise(cuts))

    def forward(
        self,
        passes: Passes,
        steps: int,
        weights: Tensors,
        states: Tensors,
        x: tf.Tensor,
        mask: tf.Tensor | None,
    ) -> Forward:
        """Runs ``passes.forward`` over one block of a sequence of so many steps."""

        def function(weights: Tensors, states: Tensors, x: Tensors, mask: Tensors) -> tuple[Tensors, ...]:
            block = passes.forward(weights, states, x[0], mask[0] if mask else None)
            return block.states, block.outputs, block.operands, block.kept

        groups = (weights, states, (x,), () if mask is None else (mask,))
        return Forward(*self._call(("forward", passes), steps, function, groups))

    def backward(
        self,
        passes: Passes,
        steps: int,
        weights: Tensors,
        gradients: Tensors,
        d_outputs: tf.Tensor | None,
        mask: tf.Tensor | None,
        kept: Tensors,
    ) -> tuple[Tensors, tf.Tensor]:
        """Runs ``passes.backward`` over one block of a sequence of so many steps."""

        def function(
            weights: Tensors, gradients: Tensors, d_outputs: Tensors, mask: Tensors, kept: Tensors
        ) -> tuple[Tensors, ...]:
            before, gates = passes.backward(
                weights, gradients, d_outputs[0] if d_outputs else None, mask[0] if mask else None, kept
            )
            return before, (gates,)

        groups = (
            weights,
            gradients,
            () if d_outputs is None else (d_outputs,),
            () if mask is None else (mask,),
            kept,
        )
        before, (gates,) = self._call(("backward", passes), steps, function, groups)
        return before, gates

    def _call(
        self,
        key: Hashable,
        steps: int,
        function: Callable[..., tuple[Tensors, ...]],
        groups: Sequence[Tensors],
    ) -> tuple[Tensors, ...]:
        """Calls a function of groups of tensors, through a shared subgraph if the sequence is long."""
        if tf.executing_eagerly() or steps <= self.unrolled_steps:
            return function(*groups)
        inputs = [tensor for group in groups for tensor in group]
        specs = [[tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in group] for group in groups]
        identity = (key, tuple(tuple(group) for group in specs))
        if identity not in self._functions:
            traced = tf.function(function, autograph=False).get_concrete_function(*map(tuple, specs))
            self._functions[identity] = traced
        shared = self._functions[identity]
        # Neither branch is preferred, but a condition known at conversion would have the call written out.
        # The first input comes from a weight, which is never a constant.
        results = tf.raw_ops.StatelessIf(
            cond=tf.reshape(inputs[0], [-1])[0] > 0.0,
            input=inputs,
            Tout=[output.dtype for output in shared.outputs],
            then_branch=shared,
            else_branch=shared,
            output_shapes=[output.shape for output in shared.outputs],
        )
        remaining = iter(results)
        counted: list[Tensors] = []
        for group in shared.structured_outputs:
            counted.append(tuple(next(remaining) for _ in group))
        return tuple(counted)
