"""Keras's rules for masked steps: states stay as they were, and outputs repeat, or are zero."""

from __future__ import annotations

import tensorflow as tf


def time_major_mask(mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Turns Keras's mask ``[batch, steps]`` or ``[batch, steps, 1]`` into ``[steps, 1, batch]``."""
    batch, steps = mask.shape[0], mask.shape[1]
    flat = tf.reshape(tf.cast(mask, dtype), [batch, steps])
    return tf.reshape(tf.transpose(flat), [steps, 1, batch])


def output_weight(mask: tf.Tensor, state: tf.Tensor, *, zero_output: bool) -> tf.Tensor | None:
    """By what the states of all steps are multiplied to give the outputs.

    A masked step repeats the last output, which is the last state, but zeros as long as no step has counted;
    only an initial state that is not zero makes a difference there. With ``zero_output`` every masked step
    gives zeros.

    Args:
        mask: ``[steps, 1, batch]``.
        state: The initial state that is also the output.
        zero_output: Keras's ``zero_output_for_mask``.

    Returns:
        ``[steps, 1, batch]``, or None where outputs and states are the same.
    """
    if zero_output:
        return mask
    known = tf.get_static_value(state)
    if known is not None and not known.any():
        return None
    return tf.minimum(tf.cumsum(mask, 0), 1.0)
