"""Any cell, step by step: what Keras's ``rnn`` does in a loop with tensor lists, written out.

Its backward pass is TensorFlow's own, through the operators that the cell consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Structure = Any
StepFunction = Callable[[Structure, tuple[Structure, ...]], tuple[Structure, Structure]]


def unrolled_rnn(
    step_function: StepFunction,
    inputs: Structure,
    initial_states: Structure,
    go_backwards: bool = False,
    mask: tf.Tensor | None = None,
    constants: list[tf.Tensor] | None = None,
    unroll: bool = False,
    input_length: int | None = None,
    time_major: bool = False,
    zero_output_for_mask: bool = False,
    return_all_outputs: bool = True,
) -> tuple[Structure, Structure, Structure]:
    """Iterates over time; has the arguments and the results of ``keras.src.backend.tensorflow.rnn.rnn``."""
    axis = 0 if time_major else 1
    sequences = [tf.unstack(tensor, axis=axis) for tensor in keras.tree.flatten(inputs)]
    masks = None if mask is None else tf.unstack(tf.cast(mask, sequences[0][0].dtype), axis=axis)
    order = range(len(sequences[0]))
    states = tuple(initial_states)
    outputs: list[Structure] = []
    for time in reversed(order) if go_backwards else order:
        step_input = keras.tree.pack_sequence_as(inputs, [sequence[time] for sequence in sequences])
        output, new_states = step_function(step_input, states + tuple(constants or ()))
        if masks is not None:
            kept = None if zero_output_for_mask or not outputs else outputs[-1]
            output = _choose(masks[time], output, kept)
            new_states = _choose(
                masks[time], new_states, keras.tree.pack_sequence_as(new_states, keras.tree.flatten(states))
            )
        states = tuple(keras.tree.pack_sequence_as(list(states), keras.tree.flatten(new_states)))
        outputs.append(output)
    wanted = outputs if return_all_outputs else outputs[-1:]
    stacked = keras.tree.map_structure(lambda *steps: tf.stack(steps, axis=axis), *wanted)
    return outputs[-1], stacked, list(states)


def _choose(mask: tf.Tensor, new: Structure, old: Structure | None) -> Structure:
    """Takes new tensors where the mask is 1, old ones (or zeros) where it is 0."""

    def choose(after: tf.Tensor, before: tf.Tensor | None) -> tf.Tensor:
        weight = tf.reshape(tf.cast(mask, after.dtype), [after.shape[0]] + [1] * (after.shape.rank - 1))
        return after * weight if before is None else after * weight + before * (1.0 - weight)

    if old is None:
        return keras.tree.map_structure(lambda after: choose(after, None), new)
    return keras.tree.map_structure(choose, new, old)
