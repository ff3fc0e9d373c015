"""One device step is Keras's own step."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.hardware.runtime import installed
from hedgerow.models import export_trainable

BATCH = 16
layers = keras.layers


def two_conv_cnn() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPool2D(),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def digits_with_flat_background(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are 0 outside a square, so that windows of a max-pooling hold equal values."""
    generator = np.random.default_rng(seed)
    x = np.zeros((BATCH, 28, 28, 1), np.float32)
    x[:, 8:20, 8:20] = generator.random((BATCH, 12, 12, 1), dtype=np.float32)
    return x, generator.integers(0, 10, BATCH).astype(np.int32)


def keras_weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_of_the_two_conv_cnn_equal_keras(tmp_path: Path, device_run, momentum: float) -> None:
    model = two_conv_cnn()
    # A bias above 0 makes the flat background positive: ties in the pooling then carry gradient.
    model.layers[0].bias.assign(np.full(16, 0.1))
    file = export_trainable(model, tmp_path / "cnn.tflite", batch_size=BATCH, momentum=momentum).path
    batches = [digits_with_flat_background(seed) for seed in range(5)]
    rate = np.float32(0.1)
    steps = [
        ("train", {"x": x, "y": y, "weight": np.ones(BATCH, np.float32), "learning_rate": rate})
        for x, y in batches
    ]
    model.compile(keras.optimizers.SGD(0.1, momentum=momentum), "sparse_categorical_crossentropy")
    expected = [model.train_on_batch(x, y) for x, y in batches]
    for runtime in installed():
        (outputs,) = device_run(runtime, [(file, [*steps, ("get_weights", {})])])
        np.testing.assert_allclose([step["loss"] for step in outputs[:-1]], expected, rtol=1e-5)
        for path, value in keras_weights(model).items():
            np.testing.assert_allclose(outputs[-1][path], value, atol=1e-5, err_msg=f"{runtime} {path}")


def test_weights_travel_bit_for_bit(tmp_path: Path, device_run) -> None:
    model = two_conv_cnn()
    file = export_trainable(model, tmp_path / "cnn.tflite", batch_size=BATCH).path
    generator = np.random.default_rng(1)
    original = keras_weights(model)
    other = {name: generator.normal(size=value.shape).astype(np.float32) for name, value in original.items()}
    calls = [("get_weights", {}), ("set_weights", other), ("get_weights", {})]
    for runtime in installed():
        ((first, _, second),) = device_run(runtime, [(file, calls)])
        assert first.keys() == original.keys()
        assert all(np.array_equal(first[name], original[name]) for name in original)
        assert all(np.array_equal(second[name], other[name]) for name in original)


@pytest.mark.slow
def test_fifty_steps_stay_on_kerass_trajectory(tmp_path: Path, device_run) -> None:
    model = two_conv_cnn()
    file = export_trainable(model, tmp_path / "cnn.tflite", batch_size=BATCH, momentum=0.9).path
    batches = [digits_with_flat_background(seed) for seed in range(50)]
    extra = {"weight": np.ones(BATCH, np.float32), "learning_rate": np.float32(0.01)}
    calls = [("train", {"x": x, "y": y, **extra}) for x, y in batches]
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    expected = [model.train_on_batch(x, y) for x, y in batches]
    for runtime in installed():
        (outputs,) = device_run(runtime, [(file, [*calls, ("get_weights", {})])])
        np.testing.assert_allclose([step["loss"] for step in outputs[:-1]], expected, atol=1e-4)
        for path, value in keras_weights(model).items():
            np.testing.assert_allclose(outputs[-1][path], value, atol=1e-4, err_msg=f"{runtime} {path}")


@pytest.mark.slow
def test_steps_of_an_lstm_equal_keras(tmp_path: Path, device_run) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((100, 6)), layers.LSTM(32), layers.Dense(7, activation="softmax")], name="windows"
    )
    file = export_trainable(model, tmp_path / "lstm.tflite", batch_size=BATCH).path
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, 100, 6)).astype(np.float32)
    y = generator.integers(0, 7, BATCH).astype(np.int32)
    inputs = {"x": x, "y": y, "weight": np.ones(BATCH, np.float32), "learning_rate": np.float32(0.1)}
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    expected = [model.train_on_batch(x, y) for _ in range(3)]
    for runtime in installed():
        (outputs,) = device_run(runtime, [(file, [*[("train", inputs)] * 3, ("get_weights", {})])])
        np.testing.assert_allclose([step["loss"] for step in outputs[:-1]], expected, rtol=1e-5)
        for path, value in keras_weights(model).items():
            np.testing.assert_allclose(outputs[-1][path], value, atol=1e-5, err_msg=f"{runtime} {path}")
