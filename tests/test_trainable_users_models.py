"""Models that are neither sequential nor functional, and gradients of rows that repeat."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from hedgerow.cli import app
from hedgerow.edge import Trainer
from hedgerow.hardware.runtime import installed
from hedgerow.models import export_trainable

layers = keras.layers
BATCH, STEPS, RATE = 4, 10, 0.05


@keras.saving.register_keras_serializable()
class Gated(keras.Model):
    """A subclassed model with a layer of its own, a shared layer, and TensorFlow's and Keras's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = layers.Conv1D(8, 3, padding="causal")
        self.gate = layers.Dense(8, activation="sigmoid", use_bias=False)
        self.shared = layers.Dense(8, activation="relu", use_bias=False)
        self.out = layers.Dense(3)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        features = self.convolution(x)
        gated = keras.ops.tanh(features) * self.gate(features)
        hidden = self.shared(self.shared(gated)) + gated
        pooled = tf.reduce_mean(hidden, axis=1) + keras.ops.max(hidden, axis=1)
        return self.out(tf.math.l2_normalize(pooled, axis=-1))


def steps(model: keras.Model, **options: object) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    shape, dtype = (6, 5), np.float32
    if model.layers and isinstance(model.layers[0], layers.InputLayer):
        shape, dtype = model.input_shape[1:], model.inputs[0].dtype
    batches = []
    for _ in range(STEPS):
        x = (
            generator.integers(0, 5, (BATCH, *shape))
            if "int" in str(dtype)
            else generator.normal(size=(BATCH, *shape))
        )
        batches.append(
            {
                "x": x.astype(dtype),
                "y": generator.integers(0, 3, BATCH).astype(np.int32),
                "weight": np.ones(BATCH, np.float32),
                "learning_rate": np.float32(RATE),
            }
        )
    return batches


def test_a_subclassed_model_follows_keras(tmp_path: Path, device_run) -> None:
    keras.utils.set_random_seed(3)
    model = Gated()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss)
    batches = steps(model)
    model(batches[0]["x"])
    file = export_trainable(
        model, tmp_path / "model.tflite", batch_size=BATCH, loss=loss, optimizer="sgd", momentum=0.9
    ).path
    expected = [float(np.ravel(model.train_on_batch(batch["x"], batch["y"]))[0]) for batch in batches]
    for runtime in installed():
        ((*done, weights),) = device_run(
            runtime, [(file, [*(("train", batch) for batch in batches), ("get_weights", {})])]
        )
        np.testing.assert_allclose([step["loss"] for step in done], expected, rtol=1e-5, err_msg=runtime)
        for weight in model.weights:
            np.testing.assert_allclose(weights[weight.path], weight.numpy(), atol=1e-5, err_msg=runtime)


def test_a_clipped_embedding_counts_each_row_once(tmp_path: Path, device_run) -> None:
    """The global norm is that of the dense gradient, where the gradients of one word are added up.

    Keras on TensorFlow takes the norm of the gradients before they are added up, which is another number
    as soon as a word appears twice in a batch; so the reference is the dense gradient itself.
    """
    keras.utils.set_random_seed(4)
    words = keras.Input((6,), dtype="int32")
    model = keras.Model(words, layers.Dense(3)(layers.Flatten()(layers.Embedding(5, 4)(words))))
    limit = 0.05
    batches = steps(model)
    file = export_trainable(
        model,
        tmp_path / "model.tflite",
        batch_size=BATCH,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        global_clipnorm=limit,
    ).path
    values = [tf.Variable(weight.numpy(), dtype=tf.float64) for weight in model.weights]
    table, kernel, bias = values
    for batch in batches:
        with tf.GradientTape() as tape:
            one_hot = tf.one_hot(batch["x"], 5, dtype=tf.float64)
            logits = tf.reshape(one_hot @ table, [BATCH, -1]) @ kernel + bias
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits))
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, values), limit)
        assert norm > limit
        for value, gradient in zip(values, gradients, strict=True):
            value.assign_sub(RATE * gradient)
    for runtime in installed():
        ((*_, weights),) = device_run(
            runtime, [(file, [*(("train", batch) for batch in batches), ("get_weights", {})])]
        )
        for weight, value in zip(model.weights, values, strict=True):
            np.testing.assert_allclose(weights[weight.path], value.numpy(), atol=2e-6, err_msg=runtime)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_command_reads_what_a_model_without_a_last_activation_gives_as_logits(
    tmp_path: Path, activation: str | None
) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=activation)])
    model.save(tmp_path / "model.keras")
    command = [
        "export-trainable",
        str(tmp_path / "model.keras"),
        str(tmp_path / "m.tflite"),
        "--batch-size",
        "4",
    ]
    done = CliRunner().invoke(app, [*command, "--loss", "sparse_categorical_crossentropy"])
    assert done.exit_code == 0, done.output
    x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0], np.int32)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)(y, model(x))
    with Trainer(tmp_path / "m.tflite") as trainer:
        assert trainer.evaluate(x, y)["loss"] == pytest.approx(float(expected), rel=1e-5)
