"""Whole architectures: a few steps on both runtimes follow Keras's own trajectory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.hardware.runtime import installed
from hedgerow.models import architectures, export_trainable

layers = keras.layers
BATCH = 4


def u_net() -> keras.Model:
    image = keras.Input((16, 16, 3))
    fine = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    coarse = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPool2D()(fine))
    bottom = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPool2D()(coarse))
    up = layers.Conv2DTranspose(16, 2, strides=2)(bottom)
    up = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.Concatenate()([up, coarse]))
    up = layers.Concatenate()([layers.UpSampling2D()(up), fine])
    return keras.Model(image, layers.Conv2D(4, 1, activation="softmax")(up))


def convnet_3d() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 8, 2)),
            layers.Conv3D(6, 3, activation="relu"),
            layers.MaxPool3D(2),
            layers.BatchNormalization(),
            layers.Conv3D(8, 2, padding="same", activation="relu"),
            layers.GlobalAveragePooling3D(),
            layers.Dense(5, activation="softmax"),
        ]
    )


def encoder_decoder() -> keras.Model:
    """Translates one sequence given another, with attention between them."""
    source = keras.Input((7, 5), name="source")
    target = keras.Input((4,), dtype="int32", name="target")
    memory, state = layers.GRU(8, return_sequences=True, return_state=True)(source)
    words = layers.Embedding(9, 8)(target)
    decoded = layers.GRU(8, return_sequences=True)(words, initial_state=state)
    context = layers.MultiHeadAttention(2, 4)(decoded, memory)
    merged = layers.LayerNormalization()(layers.Concatenate()([decoded, context]))
    return keras.Model([source, target], layers.Dense(9, activation="softmax")(merged))


def shared_and_nested() -> keras.Model:
    """Two inputs through one shared, nested encoder; two outputs."""
    inner = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, activation="elu"), layers.Flatten()]
    )
    left, right = keras.Input((6, 6, 1)), keras.Input((6, 6, 1))
    encoded = [inner(left), inner(right)]
    both = layers.Concatenate()(encoded)
    return keras.Model(
        [left, right],
        [layers.Dense(3, activation="softmax")(both), layers.Dense(1, activation="sigmoid")(encoded[0])],
    )


def small(build: Callable[..., keras.Model], **options: object) -> Callable[[], keras.Model]:
    """The architecture without dropout, whose random numbers are not Keras's."""

    def without_dropout() -> keras.Model:
        model = build(**options)
        for layer in model.layers:
            if isinstance(layer, layers.Dropout):
                layer.rate = 0.0
        return model

    return without_dropout


MODELS: dict[str, tuple[Callable[[], keras.Model], list[str]]] = {
    "resnet8": (small(architectures.resnet8), ["sparse_categorical_crossentropy"]),
    "ds_cnn": (small(architectures.ds_cnn), ["sparse_categorical_crossentropy"]),
    "mobilenet_v1": (
        small(architectures.mobilenet_v1, shape=(64, 64, 3)),
        ["sparse_categorical_crossentropy"],
    ),
    "u_net": (u_net, ["sparse_categorical_crossentropy"]),
    "convnet_3d": (convnet_3d, ["sparse_categorical_crossentropy"]),
    "encoder_decoder": (encoder_decoder, ["sparse_categorical_crossentropy"]),
    "shared_and_nested": (shared_and_nested, ["sparse_categorical_crossentropy", "binary_crossentropy"]),
}


# At a batch of 4, noise of 1e-6 on MobileNet's weights moves its loss by 1e-5, and every step multiplies it.
STEPS = {"mobilenet_v1": 1}


def batch_of(model: keras.Model, losses: list[str], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    x = [
        generator.integers(0, 9, (BATCH, *tensor.shape[1:])).astype(np.int32)
        if tensor.dtype == "int32"
        else generator.normal(size=(BATCH, *tensor.shape[1:])).astype(np.float32)
        for tensor in model.inputs
    ]
    y = []
    for tensor, loss in zip(model.outputs, losses, strict=True):
        shape = (BATCH, *tensor.shape[1:])
        if loss == "binary_crossentropy":
            y.append(generator.integers(0, 2, shape).astype(np.float32))
        else:
            y.append(generator.integers(0, shape[-1], shape[:-1]).astype(np.int32))
    return x, y


def named(prefix: str, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    if len(arrays) == 1:
        return {prefix: arrays[0]}
    return {f"{prefix}{index}": array for index, array in enumerate(arrays)}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_steps_follow_keras(tmp_path: Path, device_run, name: str) -> None:
    build, losses = MODELS[name]
    keras.utils.set_random_seed(0)
    model = build()
    file = export_trainable(
        model, tmp_path / "model.tflite", batch_size=BATCH, loss=losses, momentum=0.9
    ).path
    batches = [batch_of(model, losses, seed) for seed in range(STEPS.get(name, 3))]
    extra = {"weight": np.ones(BATCH, np.float32), "learning_rate": np.float32(0.001)}
    calls = [("train", named("x", x) | named("y", y) | extra) for x, y in batches]
    calls.append(("infer", named("x", batches[0][0])))
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    model.compile(optimizer, losses if len(losses) > 1 else losses[0])
    expected = []
    for x, y in batches:
        loss = model.train_on_batch(x if len(x) > 1 else x[0], y if len(y) > 1 else y[0])
        expected.append(float(np.ravel(loss)[0]))
    predicted = keras.tree.flatten(model(batches[0][0] if len(batches[0][0]) > 1 else batches[0][0][0]))
    for runtime in installed():
        ((*steps, inferred, weights),) = device_run(runtime, [(file, [*calls, ("get_weights", {})])])
        np.testing.assert_allclose([step["loss"] for step in steps], expected, rtol=2e-5, err_msg=runtime)
        for weight in model.weights:
            wanted = weight.numpy()
            error = np.abs(weights[weight.path] - wanted).max() / max(np.abs(wanted).max(), 0.1)
            assert error < 1e-4, f"{runtime} {weight.path}: {error:.1e}"
        for output, value in zip(sorted(inferred), predicted, strict=True):
            np.testing.assert_allclose(inferred[output], value, atol=1e-4, err_msg=f"{runtime} {output}")
