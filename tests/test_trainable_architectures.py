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


def stacked_bidirectional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((12, 5)),
            layers.Bidirectional(layers.LSTM(8, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(8)),
            layers.Dense(4, activation="softmax"),
        ]
    )


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
    "ds_cnn": (lambda: without_kinks(small(architectures.ds_cnn))(), ["sparse_categorical_crossentropy"]),
    "mobilenet_v1": (
        small(architectures.mobilenet_v1, shape=(64, 64, 3)),
        ["sparse_categorical_crossentropy"],
    ),
    "u_net": (u_net, ["sparse_categorical_crossentropy"]),
    "convnet_3d": (convnet_3d, ["sparse_categorical_crossentropy"]),
    "stacked_bidirectional": (stacked_bidirectional, ["sparse_categorical_crossentropy"]),
    "encoder_decoder": (encoder_decoder, ["sparse_categorical_crossentropy"]),
    "shared_and_nested": (shared_and_nested, ["sparse_categorical_crossentropy", "binary_crossentropy"]),
}


STEPS, LEARNING_RATE = 50, 0.001
# A rectifier whose input is within rounding of 0 may pass a gradient in one program and not in the other, and
# from then on the trajectories differ by 1e-3: this model meets such an input in the first batches. In DS-CNN
# it happens so often that its rectifiers are exchanged for a function whose slope has no jump.
FIRST_BATCH = {"convnet_3d": 100}


def without_kinks(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    """The model with ELU in place of ReLU."""

    def smooth(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, layers.ReLU):
            return layers.ELU(name=layer.name)
        return type(layer).from_config(layer.get_config())

    return lambda: keras.models.clone_model(build(), clone_function=smooth)


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


def trajectory(
    name: str,
    weights: list[np.ndarray],
    batches: list[tuple[list[np.ndarray], list[np.ndarray]]],
    precision: str,
) -> tuple[list[float], list[np.ndarray], list[np.ndarray]]:
    """Keras's losses, its final weights and what it then predicts for the first batch."""
    build, losses = MODELS[name]
    policy = keras.config.dtype_policy()
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    try:
        model = build()
        for weight, value in zip(model.weights, weights, strict=True):
            weight.assign(value)
        optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
        model.compile(optimizer, losses if len(losses) > 1 else losses[0])
        found = []
        for x, y in batches:
            loss = model.train_on_batch(x if len(x) > 1 else x[0], y if len(y) > 1 else y[0])
            found.append(float(np.ravel(loss)[0]))
        first = batches[0][0]
        predicted = keras.tree.flatten(model(first if len(first) > 1 else first[0]))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)
    return found, [w.numpy() for w in model.weights], [np.asarray(y) for y in predicted]


def distance(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest error of a weight, relative to the largest number in its tensor."""
    return max(
        float(np.abs(own - other).max() / max(np.abs(other).max(), 0.1))
        for own, other in zip(found, wanted, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_fifty_steps_follow_keras(tmp_path: Path, device_run, name: str) -> None:
    """Within 1e-4, or within what rounding alone does to Keras: MobileNet at a batch of 4 is chaotic."""
    build, losses = MODELS[name]
    keras.utils.set_random_seed(0)
    model = build()
    start = [weight.numpy() for weight in model.weights]
    file = export_trainable(
        model, tmp_path / "model.tflite", batch_size=BATCH, loss=losses, momentum=0.9
    ).path
    first = FIRST_BATCH.get(name, 0)
    batches = [batch_of(model, losses, seed) for seed in range(first, first + STEPS)]
    extra = {"weight": np.ones(BATCH, np.float32), "learning_rate": np.float32(LEARNING_RATE)}
    calls = [("train", named("x", x) | named("y", y) | extra) for x, y in batches]
    calls += [("infer", named("x", batches[0][0])), ("get_weights", {})]
    expected, wanted, predicted = trajectory(name, start, batches, "float32")
    rounding = 0.0
    if name == "mobilenet_v1":
        _, exact, _ = trajectory(name, start, batches, "float64")
        rounding = distance(wanted, exact)
    for runtime in installed():
        ((*steps, inferred, weights),) = device_run(runtime, [(file, calls)])
        assert steps[0]["loss"] == pytest.approx(expected[0], rel=2e-5), runtime
        found = [weights[weight.path] for weight in model.weights]
        assert distance(found, wanted) <= max(1e-4, 3 * rounding), runtime
        if not rounding:
            np.testing.assert_allclose([step["loss"] for step in steps], expected, rtol=1e-4, err_msg=runtime)
            for output, value in zip(sorted(inferred), predicted, strict=True):
                np.testing.assert_allclose(inferred[output], value, atol=1e-4, err_msg=f"{runtime} {output}")
