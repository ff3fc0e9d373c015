"""Exported models with recurrent layers: both runtimes compute Keras's float64 outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow.hardware.runtime import installed
from hedgerow.models import export_trainable

BATCH = 4
layers = keras.layers


def sequential(*inner: Callable[[], keras.Layer], steps: int = 6) -> keras.Model:
    return keras.Sequential([keras.Input((steps, 3)), *(make() for make in inner), layers.Dense(2)])


def padded_text() -> keras.Model:
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    return keras.Model(tokens, layers.Dense(2)(layers.GRU(3)(x)))


def encoder_decoder() -> keras.Model:
    source, target = keras.Input((6, 3)), keras.Input((4, 3))
    _, *states = layers.LSTM(5, return_state=True)(source)
    decoded = layers.LSTM(5, return_sequences=True)(target, initial_state=states)
    return keras.Model([source, target], layers.Dense(2)(layers.Flatten()(decoded)))


def masked_decoder() -> keras.Model:
    source, target = keras.Input((6, 3)), keras.Input((4, 3))
    _, state = layers.GRU(5, return_state=True)(source)
    decoded = layers.GRU(5, return_sequences=True)(layers.Masking()(target), initial_state=[state])
    return keras.Model([source, target], layers.Dense(2)(layers.GRU(3)(decoded)))


class Leaky(keras.layers.Layer):
    """A cell that Keras does not have."""

    def __init__(self, units: int, **options: object) -> None:
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def call(self, x: tf.Tensor, states: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        mixed = keras.ops.matmul(x, self.kernel) + keras.ops.matmul(states[0], self.recurrent)
        h = 0.7 * states[0] + 0.3 * keras.ops.tanh(mixed)
        return h, [h]


MODELS: dict[str, Callable[[], keras.Model]] = {
    "lstm": lambda: sequential(lambda: layers.LSTM(5)),
    "lstm_blocks": lambda: sequential(
        lambda: layers.LSTM(3, return_sequences=True), layers.Flatten, steps=140
    ),
    "gru": lambda: sequential(lambda: layers.GRU(5, go_backwards=True)),
    "gru_reset_before": lambda: sequential(lambda: layers.GRU(5, reset_after=False)),
    "gru_blocks": lambda: sequential(layers.Masking, lambda: layers.GRU(3), steps=140),
    "simple_rnn": lambda: sequential(lambda: layers.SimpleRNN(5, activation="relu")),
    # The converter loses a RELU right after a product of variable weights.
    "lstm_relu": lambda: sequential(lambda: layers.LSTM(4, activation="relu")),
    "gru_relu": lambda: sequential(
        lambda: layers.GRU(4, activation="relu", recurrent_activation="hard_sigmoid", reset_after=False)
    ),
    "stacked_bidirectional": lambda: sequential(
        lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
        lambda: layers.Bidirectional(layers.LSTM(3)),
    ),
    "padded_text": padded_text,
    "encoder_decoder": encoder_decoder,
    "masked_decoder": masked_decoder,
    "custom_cell": lambda: sequential(lambda: layers.RNN(Leaky(4))),
    "other_activation": lambda: sequential(lambda: layers.LSTM(4, activation="softsign")),
}


@contextmanager
def double_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def draw_inputs(model: keras.Model) -> list[np.ndarray]:
    """Random examples; the ends of some of them are zeros, which Masking and Embedding leave out."""
    random = np.random.default_rng(1)
    found = []
    for tensor in model.inputs:
        shape = (BATCH, *tensor.shape[1:])
        if tensor.dtype == "int32":
            values = random.integers(1, 9, shape).astype(np.int32)
        else:
            values = random.normal(size=shape).astype(np.float32)
        values[0, shape[1] // 2 :] = 0
        values[1, 0] = 0
        found.append(values)
    return found


def float64_step(
    name: str, model: keras.Model, inputs: list[np.ndarray], y: np.ndarray
) -> tuple[np.ndarray, list]:
    """Outputs, and gradients of the mean squared error, by Keras in float64."""
    with double_precision():
        reference = MODELS[name]()
    reference.set_weights(model.get_weights())
    with tf.GradientTape() as tape:
        outputs = reference(inputs if len(inputs) > 1 else inputs[0])
        loss = tf.reduce_mean(tf.square(outputs - y))
    weights = [weight.value for weight in reference.trainable_weights]
    gradients = tape.gradient(loss, weights)
    return outputs.numpy(), [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def named(inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {"x": inputs[0]} if len(inputs) == 1 else {f"x{i}": value for i, value in enumerate(inputs)}


@pytest.mark.slow
def test_outputs_and_gradients_are_kerass(tmp_path: Path, device_run) -> None:
    cases, wanted = [], {}
    for name, make in MODELS.items():
        keras.utils.set_random_seed(3)
        model = make()
        random = np.random.default_rng(2)
        model.set_weights([random.normal(size=w.shape).astype("f") * 0.5 for w in model.get_weights()])
        inputs = draw_inputs(model)
        y = np.random.default_rng(5).normal(size=(BATCH, 2)).astype(np.float32)
        file = export_trainable(model, tmp_path / f"{name}.tflite", batch_size=BATCH, loss="mse").path
        batch = {"y": y, "weight": np.ones(BATCH, np.float32), "learning_rate": np.float32(1.0)}
        calls = [("infer", named(inputs)), ("train", named(inputs) | batch), ("get_weights", {})]
        cases.append((file, calls))
        before = {weight.path: weight.numpy() for weight in model.trainable_weights}
        wanted[name] = (before, *float64_step(name, model, inputs, y))
    for runtime in installed():
        for (name, (before, outputs, gradients)), found in zip(
            wanted.items(), device_run(runtime, cases), strict=True
        ):
            infer, _, after = found
            np.testing.assert_allclose(
                infer["output"], outputs, atol=1e-5 * np.abs(outputs).max(), err_msg=f"{runtime} {name}"
            )
            for (path, value), gradient in zip(before.items(), gradients, strict=True):
                scale = max(np.abs(gradient).max(), np.abs(value).max() * 0.02)
                np.testing.assert_allclose(
                    value - after[path], gradient, atol=1e-5 * scale, err_msg=f"{runtime} {name} {path}"
                )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "stacked_bidirectional"])
def test_fifty_steps_follow_keras(tmp_path: Path, device_run, name: str) -> None:
    keras.utils.set_random_seed(6)
    model = MODELS[name]()
    random = np.random.default_rng(7)
    batches = [
        (random.normal(size=(BATCH, 6, 3)).astype("f"), random.normal(size=(BATCH, 2)).astype("f"))
        for _ in range(50)
    ]
    file = export_trainable(model, tmp_path / "m.tflite", batch_size=BATCH, loss="mse", momentum=0.9).path
    calls = [
        ("train", {"x": x, "y": y, "weight": np.ones(BATCH, "f"), "learning_rate": np.float32(0.05)})
        for x, y in batches
    ]
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    losses = [model.train_on_batch(x, y) for x, y in batches]
    for runtime in installed():
        (found,) = device_run(runtime, [(file, [*calls, ("get_weights", {})])])
        np.testing.assert_allclose([step["loss"] for step in found[:-1]], losses, rtol=1e-4)
        for weight in model.trainable_weights:
            np.testing.assert_allclose(found[-1][weight.path], weight.numpy(), atol=1e-4)


@pytest.mark.slow
def test_512_steps_convert_small_and_run(tmp_path: Path, device_run) -> None:
    keras.utils.set_random_seed(8)
    model = keras.Sequential([keras.Input((512, 3)), layers.LSTM(16), layers.Dense(2)])
    info = export_trainable(model, tmp_path / "long.tflite", batch_size=BATCH, loss="mse")
    assert info.size_bytes < 400_000
    x = np.random.default_rng(9).normal(size=(BATCH, 512, 3)).astype(np.float32)
    for runtime in installed():
        ((infer,),) = device_run(runtime, [(info.path, [("infer", {"x": x})])])
        np.testing.assert_allclose(infer["output"], model(x).numpy(), atol=1e-5)
