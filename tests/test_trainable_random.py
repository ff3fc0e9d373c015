"""Layers that draw random numbers: from the seed of the step, alike on every runtime."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.hardware.runtime import installed
from hedgerow.models import export_trainable

layers = keras.layers
BATCH, RATE = 8, 0.3
SHAPES = {
    "Dropout": ((40, 30), layers.Dropout),
    "SpatialDropout1D": ((6, 64), layers.SpatialDropout1D),
    "SpatialDropout2D": ((5, 4, 64), layers.SpatialDropout2D),
    "SpatialDropout3D": ((3, 2, 4, 64), layers.SpatialDropout3D),
    "AlphaDropout": ((40, 30), layers.AlphaDropout),
    "GaussianDropout": ((40, 30), layers.GaussianDropout),
    "GaussianNoise": ((40, 30), layers.GaussianNoise),
}


@keras.saving.register_keras_serializable()
class Scale(layers.Layer):
    """One trainable number per element: the gradient of a sum shows what came in."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.factor = self.add_weight(shape=(1, *shape[1:]), initializer="ones", name="factor")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.factor


@pytest.mark.parametrize("name", SHAPES)
def test_draws_are_kerass_and_the_seeds(tmp_path: Path, device_run, name: str) -> None:
    shape, layer = SHAPES[name]
    file = exported(shape, layer, tmp_path / "model.tflite")
    first, *others = (through(device_run, runtime, file, shape) for runtime in installed())
    for same in others:
        for own, other in zip(first, same, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(first[0] - first[2]).max() > 0.1, "another seed draws others"
    check_distribution(first, layer, shape, whole_channels=name.startswith("Spatial"))


def exported(shape: tuple[int, ...], layer: type[keras.Layer], path: Path) -> Path:
    """A model that multiplies what the layer lets through; its loss has the same slope everywhere."""
    inputs = keras.Input(shape)
    scaled = Scale(name="scale")(layer(RATE)(inputs))
    model = keras.Model(inputs, layers.Flatten()(scaled))
    return export_trainable(model, path, batch_size=BATCH, loss="mae").path


def through(device_run, runtime: str, file: Path, shape: tuple[int, ...]) -> list[np.ndarray]:
    """What ones become, as the mean over the batch, for the seeds 1, 1 and 2: the gradient of each factor."""
    size = int(np.prod(shape))
    batch = {
        "x": np.ones((BATCH, *shape), np.float32),
        "y": np.full((BATCH, size), 1e3, np.float32),
        "weight": np.ones(BATCH, np.float32),
        "learning_rate": np.float32(size),
    }
    zeros = {"scale/factor": np.zeros((1, *shape), np.float32)}
    calls: list[tuple[str, dict[str, np.ndarray]]] = []
    for seed in (1, 1, 2):
        calls += [("set_weights", zeros), ("train", batch | {"seed": np.int32(seed)}), ("get_weights", {})]
    (results,) = device_run(runtime, [(file, calls)])
    return [result["scale/factor"][0] for result in results[2::3]]


def check_distribution(
    found: list[np.ndarray], layer: type[keras.Layer], shape: tuple[int, ...], *, whole_channels: bool
) -> None:
    """Against two hundred batches drawn by Keras itself."""
    keras.utils.set_random_seed(0)
    drawn = layer(RATE)(np.ones((200 * BATCH, *shape), np.float32), training=True)
    wanted = np.asarray(drawn).reshape(200, BATCH, *shape).mean(axis=1)
    for values in (found[0], found[2]):
        count = shape[-1] if whole_channels else values.size
        assert abs(values.mean() - wanted.mean()) < 5 * np.sqrt(wanted.var() / count)
        assert values.var() == pytest.approx(wanted.var(), rel=0.6 if whole_channels else 0.2)
        if whole_channels:
            channels = values.reshape(-1, shape[-1])
            np.testing.assert_array_equal(channels, np.broadcast_to(channels[:1], channels.shape))
