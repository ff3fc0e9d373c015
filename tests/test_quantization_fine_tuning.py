"""Fake quantization is int8's rounding, and fine-tuning helps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import UnsupportedLayerError, UsageError
from hedgerow.models import datasets
from hedgerow.quantization import Converter, compare, fine_tune
from hedgerow.quantization.fake_quant import fake_quantize, quantize_kernel

RNG = np.random.default_rng(0)


def test_a_kernel_is_rounded_per_channel_by_hand() -> None:
    # Channel 0 has the scale 1.27 / 127 = 0.01, channel 1 has 12.7 / 127 = 0.1.
    kernel = np.float32([[1.27, 12.7], [0.123, 1.23], [-0.456, -4.56]])
    expected = np.float32([[1.27, 12.7], [0.12, 1.2], [-0.46, -4.6]])
    np.testing.assert_allclose(quantize_kernel(kernel, -1), expected, atol=1e-5)
    np.testing.assert_allclose(quantize_kernel(kernel.T, 0), expected.T, atol=1e-5)


def test_outputs_are_on_a_grid_of_256_steps_and_the_copy_is_free() -> None:
    network = keras.Sequential([keras.Input((5,)), layers.Dense(3), layers.BatchNormalization()])
    x = RNG.normal(size=(200, 5)).astype(np.float32)
    before = network.get_weights()
    copy = fake_quantize(network)
    inner = keras.Model(copy.inputs[0], copy.layers[0].output)
    values = np.unique(np.asarray(inner(x)))
    step = np.diff(values).min()
    assert len(values) <= 256
    np.testing.assert_allclose(values / step, np.round(values / step), atol=1e-2)
    copy.layers[0].layer.kernel.assign(np.zeros((5, 3)))
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_such_layers_is_told_so() -> None:
    network = keras.Sequential([keras.Input((5, 2)), layers.LSTM(3)])
    with pytest.raises(UnsupportedLayerError, match="Dense"):
        fake_quantize(network)
    with pytest.raises(UsageError, match="epochs"):
        fine_tune(network, np.zeros((2, 5, 2)), np.zeros(2), epochs=0)


@pytest.mark.slow
def test_fine_tuning_brings_back_what_an_outlier_costs(converter: Converter) -> None:
    digits = datasets.mnist()
    order = np.random.default_rng(0).permutation(len(digits))
    train, test = digits.take(order[:1200]), digits.take(order[1200:1600])
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    network.fit(train.x, train.y, epochs=4, batch_size=32, verbose=0)
    expected = np.asarray(network(test.x))
    _make_outliers(network)
    # The function is the same in float; in int8 three channels take the range of the whole layer.
    np.testing.assert_allclose(np.asarray(network(test.x)), expected, atol=1e-4)

    def drop(model: keras.Model) -> float:
        files = {"int8": converter.convert(model, "int8", calibration=train.x[:200])}
        comparison = compare(model, files, test.x, test.y)
        return (
            float(np.trace(_confusion(expected, test.y)) / len(test.y))
            - comparison.files["int8"].metrics["accuracy"]
        )

    weights = network.get_weights()
    before = drop(network)
    assert before > 0.08
    losses: list[float] = []
    tuned = fine_tune(network, train.x, train.y, epochs=3, on_epoch=lambda _, loss: losses.append(loss))
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert drop(tuned) < before / 3
    for one, other in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def _make_outliers(network: keras.Model) -> None:
    """Scales three hidden channels up, and back down in the layer after them."""
    hidden, head = network.layers[-2:]
    kernel, bias = hidden.get_weights()
    after, constant = head.get_weights()
    kernel[:, :3] *= 200
    bias[:3] *= 200
    after[:3] /= 200
    hidden.set_weights([kernel, bias])
    head.set_weights([after, constant])


def _confusion(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    table = np.zeros((10, 10), np.int64)
    np.add.at(table, (y, outputs.argmax(axis=1)), 1)
    return table
