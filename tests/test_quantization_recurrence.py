"""LSTMs as fused operators, everything else unrolled: against Keras itself, on reference kernels."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.hardware.inference import Inference
from hedgerow.quantization import Converter
from hedgerow.quantization.fused_file import has_fused_lstm
from hedgerow.quantization.recurrence import convertible_recurrence

STEPS, FEATURES, UNITS = 20, 6, 8
EXAMPLES = np.random.default_rng(0).normal(size=(40, STEPS, FEATURES)).astype(np.float32)


def model(*recurrent: layers.Layer) -> keras.Model:
    """A classifier whose weights, biases above all, are not what they were initialized to."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((STEPS, FEATURES)), *recurrent, layers.Dense(4, name="head")])
    rng = np.random.default_rng(2)
    for weight in network.weights:
        weight.assign(weight.numpy() + 0.2 * rng.normal(size=weight.shape))
    return network


FUSED: dict[str, Callable[[], list[layers.Layer]]] = {
    "lstm": lambda: [layers.LSTM(UNITS)],
    "no-bias": lambda: [layers.LSTM(UNITS, use_bias=False)],
    "stacked": lambda: [layers.LSTM(UNITS, return_sequences=True), layers.LSTM(UNITS)],
    "sequence": lambda: [layers.LSTM(UNITS, return_sequences=True)],
    "backwards": lambda: [layers.LSTM(UNITS, go_backwards=True, return_sequences=True), layers.Flatten()],
    "bidirectional": lambda: [layers.Bidirectional(layers.LSTM(UNITS))],
    "bidirectional-sequence": lambda: [
        layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True), merge_mode="sum"),
        layers.GlobalAveragePooling1D(),
    ],
    "after-convolution": lambda: [
        layers.Conv1D(8, 3, activation="relu"),
        layers.MaxPooling1D(2),
        layers.LSTM(UNITS),
    ],
}
UNROLLED: dict[str, Callable[[], list[layers.Layer]]] = {
    "gru": lambda: [layers.GRU(UNITS)],
    "simple-rnn": lambda: [layers.SimpleRNN(UNITS)],
    "hard-sigmoid": lambda: [layers.LSTM(UNITS, recurrent_activation="hard_sigmoid")],
    "masked": lambda: [layers.Masking(), layers.LSTM(UNITS)],
}


def differences(data: bytes, network: keras.Model) -> np.ndarray:
    expected = np.asarray(network(EXAMPLES))
    with Inference(data, runtime="litert", reference_kernels=True) as inference:
        (outputs,) = inference.predict(EXAMPLES)
    return np.abs(outputs - expected) / np.ptp(expected)


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_lstm_answers_like_keras(name: str, converter: Converter) -> None:
    network = model(*FUSED[name]())
    exact = converter.convert(network, "float32")
    assert has_fused_lstm(exact)
    assert differences(exact, network).max() < 1e-6
    quantized = converter.convert(network, "int8", calibration=EXAMPLES)
    assert has_fused_lstm(quantized)
    # An int8 output in 256 steps over its range cannot be nearer than 1/512; errors add up over the layers.
    assert differences(quantized, network).max() < 0.03
    assert differences(quantized, network).mean() < 0.008


@pytest.mark.slow
@pytest.mark.parametrize("name", UNROLLED)
def test_what_cannot_be_fused_is_unrolled(name: str, converter: Converter) -> None:
    network = model(*UNROLLED[name]())
    assert differences(converter.convert(network, "float32"), network).max() < 1e-6
    quantized = converter.convert(network, "int8", calibration=EXAMPLES)
    assert not has_fused_lstm(quantized)
    assert differences(quantized, network).mean() < 0.015


def test_the_cell_state_may_grow_beyond_ten(converter: Converter) -> None:
    network = keras.Sequential([keras.Input((20, 1)), layers.LSTM(1, return_sequences=True)])
    cell = network.layers[0].cell
    # Open gates, and a candidate of the input's sign: the cell counts 12 up and 8 down again, to 4.
    cell.kernel.assign([[0.0, 0.0, 10.0, 0.0]])
    cell.recurrent_kernel.assign(np.zeros((1, 4)))
    cell.bias.assign([20.0, 20.0, 0.0, 20.0])
    counted = np.repeat(np.float32([1, -1]), [12, 8]).reshape(1, 20, 1)
    data = converter.convert(network, "float32")
    with Inference(data, runtime="litert") as inference:
        (outputs,) = inference.predict(counted)
    np.testing.assert_allclose(outputs, np.asarray(network(counted)), atol=1e-6)
    np.testing.assert_allclose(outputs[0, -1], np.tanh(4.0), atol=1e-6)


def test_runs_do_not_inherit_the_state_of_the_one_before(converter: Converter) -> None:
    network = model(layers.LSTM(UNITS, return_sequences=True))
    data = converter.convert(network, "int8", calibration=EXAMPLES)
    with Inference(data, runtime="litert") as inference:
        (alone,) = inference.predict(EXAMPLES[:1])
        inference.predict(EXAMPLES[1:5])
        (again,) = inference.predict(EXAMPLES[:1])
    np.testing.assert_array_equal(alone, again)


def test_keras_is_as_it_was_afterwards() -> None:
    before = keras.layers.LSTM.call, keras.layers.RNN.call
    with pytest.raises(KeyError), convertible_recurrence(fuse=True, unroll=True):
        assert keras.layers.LSTM.call is not before[0]
        raise KeyError
    assert (keras.layers.LSTM.call, keras.layers.RNN.call) == before


def test_the_model_is_not_changed(converter: Converter) -> None:
    network = model(layers.GRU(UNITS))
    before = np.asarray(network(EXAMPLES))
    converter.convert(network, "float32")
    assert network.layers[0].unroll is False
    np.testing.assert_array_equal(np.asarray(network(EXAMPLES)), before)
