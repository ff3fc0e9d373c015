"""A Keras recurrent layer by the formula of its cell."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from .blocks import Blocks
from .cell import formula_of, weights_of
from .masking import output_weight, time_major_mask
from .sequence import SequenceLayer

LayerResults = tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]


def run_layer(
    layer: keras.layers.RNN,
    sequences: tf.Tensor,
    initial_state: Sequence[tf.Tensor],
    mask: tf.Tensor | None,
    *,
    training: bool,
    blocks: Blocks,
) -> LayerResults | None:
    """Does what ``layer.inner_loop`` does.

    Args:
        layer: A built SimpleRNN, GRU, LSTM or RNN.
        sequences: ``[batch, steps, features]``.
        initial_state: Each ``[batch, units]``.
        mask: ``[batch, steps]`` or None.
        training: Whether dropout is active.
        blocks: How the layer is written down.

    Returns:
        The last output, the outputs of all steps (or of the last alone) and the final states, batch first; or
        None if the cell has no formula.
    """
    cell = layer.cell
    formula = formula_of(cell)
    if formula is None:
        return None
    if training and (cell.dropout or cell.recurrent_dropout):
        if cell.recurrent_dropout or getattr(cell, "implementation", 2) == 1:
            return None
        batch, _, features = sequences.shape
        dropped = tf.convert_to_tensor(cell.get_dropout_mask(sequences[:, 0, :]))
        sequences = sequences * tf.reshape(dropped, [batch, 1, features])
    rows = None if mask is None else time_major_mask(mask, sequences.dtype)
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
        rows = None if rows is None else tf.reverse(rows, [0])
    states = [tf.transpose(state) for state in initial_state]
    weight = None if rows is None else output_weight(rows, states[0], zero_output=layer.zero_output_for_mask)
    run = SequenceLayer(formula, blocks, rows, layer.return_sequences)
    x = tf.transpose(sequences, [1, 2, 0])
    outputs, final = run.run(x, states, weights_of(cell, sequences.dtype))
    last = tf.transpose(final[0] if weight is None else final[0] * weight[-1])
    if outputs is None:
        every = tf.expand_dims(last, 1)
    else:
        every = tf.transpose(outputs if weight is None else outputs * weight, [2, 0, 1])
    return last, every, [tf.transpose(state) for state in final]
