"""Keras's recurrent layers in forms that the TFLite converter can calibrate.

Keras 3 traces them to a WHILE loop, on which calibration ends with SIGSEGV (tensorflow#75140). An LSTM
becomes the fused UNIDIRECTIONAL_SEQUENCE_LSTM: the converter puts that operator in the place of a function
that says it implements an LSTM
(`tensorflow/compiler/mlir/lite/transforms/prepare_composite_functions_tf.cc`). It holds for a batch of 1, a
zero initial state, tanh and sigmoid. Everything else is unrolled: right, but a large file.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


@contextlib.contextmanager
def convertible_recurrence(*, fuse: bool, unroll: bool) -> Iterator[None]:
    """While a model is traced in here, its recurrent layers take a form that the converter knows.

    Outside it Keras is as it was. Not for two threads at once.

    Args:
        fuse: Whether to fuse the LSTMs that can be.
        unroll: Whether to unroll what is not fused, which calibration needs; otherwise it stays a loop.
    """
    lstm_call, rnn_call = keras.layers.LSTM.call, keras.layers.RNN.call
    numbers = itertools.count()

    @functools.wraps(lstm_call)
    def fused_call(
        layer: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        if not _can_be_fused(layer, initial_state, mask):
            return lstm_call(layer, sequences, initial_state=initial_state, mask=mask, training=training)
        last, outputs = _fused(layer, tf.convert_to_tensor(sequences), next(numbers))
        return outputs if layer.return_sequences else last

    @functools.wraps(rnn_call)
    def unrolled_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        before, layer.unroll = layer.unroll, True
        try:
            return rnn_call(layer, *args, **kwargs)
        finally:
            layer.unroll = before

    if fuse:
        keras.layers.LSTM.call = fused_call
    if unroll:
        keras.layers.RNN.call = unrolled_call
    try:
        yield
    finally:
        keras.layers.LSTM.call, keras.layers.RNN.call = lstm_call, rnn_call


def _can_be_fused(layer: Any, initial_state: Any, mask: Any) -> bool:
    activations = (layer.cell.activation, layer.cell.recurrent_activation)
    return (
        activations == (keras.activations.tanh, keras.activations.sigmoid)
        and initial_state is None
        and mask is None
        and not layer.stateful
        and not layer.return_state
    )


def _fused(layer: Any, sequences: Any, number: int) -> tuple[Any, Any]:
    """The outputs of the last step `[1, units]` and of all steps `[1, steps, units]`."""
    cell = layer.cell
    units, steps = cell.units, sequences.shape[1]
    kernel = tf.convert_to_tensor(cell.kernel)
    recurrent = tf.convert_to_tensor(cell.recurrent_kernel)
    bias = tf.zeros([4 * units]) if cell.bias is None else tf.convert_to_tensor(cell.bias)
    function = tf.function(
        _recurrence(steps, units, backwards=layer.go_backwards),
        autograph=False,
        experimental_attributes={
            "api_implements": f"lstm_{number}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": bool(layer.go_backwards),
        },
    )
    zero = tf.zeros([1, units])
    last, outputs, *_ = function(sequences, zero, zero, kernel, recurrent, bias)
    return last, outputs


def _recurrence(steps: int, units: int, *, backwards: bool) -> Callable[..., tuple[Any, ...]]:
    """Hochreiter and Schmidhuber's cell with forget gates, in Keras's order of the gates: i, f, c, o.

    The function has the results that the converter expects of an LSTM: last output, all outputs, both
    states, and a number that says which runtime TensorFlow chose.
    """

    def recurrence(
        sequences: Any, output: Any, cell: Any, kernel: Any, recurrent: Any, bias: Any
    ) -> tuple[Any, ...]:
        by_time = tf.transpose(sequences, [1, 0, 2])
        if backwards:
            by_time = tf.reverse(by_time, [0])

        def body(time: Any, output: Any, cell: Any, outputs: Any) -> tuple[Any, ...]:
            gates = by_time[time] @ kernel + output @ recurrent + bias
            input_gate, forget_gate, candidate, output_gate = tf.split(gates, 4, axis=1)
            cell = tf.sigmoid(forget_gate) * cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
            output = tf.sigmoid(output_gate) * tf.tanh(cell)
            return time + 1, output, cell, outputs.write(time, output)

        outputs = tf.TensorArray(tf.float32, size=steps, element_shape=(1, units))
        _, output, cell, outputs = tf.while_loop(
            lambda time, *_: time < steps, body, (0, output, cell, outputs), maximum_iterations=steps
        )
        return output, tf.transpose(outputs.stack(), [1, 0, 2]), output, cell, tf.constant(1.0)

    return recurrence
