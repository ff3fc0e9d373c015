"""Every recipe on every kind of model: near to Keras, on both runtimes, in a process of its own on each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.hardware import verification
from hedgerow.hardware.interpreter import load
from hedgerow.quantization import Converter, recipes
from hedgerow.quantization.golden import write_golden

RNG = np.random.default_rng(0)
# The largest distance from Keras as a share of the outputs' range, for random weights and inputs.
LIMITS = {
    "float32": 1e-5,
    "float16": 2e-3,
    "dynamic": 0.02,
    "int8": 0.03,
    "int8-ranges": 0.05,
    "mixed": 0.03,
    "int16x8": 0.015,
    "int4": 0.3,
}
# Made by training, which tests/test_quantization_gate.py does.
TRAINED = {"int8-tuned"}
RUNS_ON = {name: ("litert",) if name == "int4" else ("litert", "tflite") for name in LIMITS}


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 2)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )


def one_dimensional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((40, 6)),
            layers.Conv1D(32, 5, activation="relu"),
            layers.MaxPooling1D(2),
            layers.Conv1D(32, 5, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(10),
        ]
    )


def recurrent() -> keras.Model:
    return keras.Sequential([keras.Input((12, 6)), layers.LSTM(16), layers.Dense(10)])


MODELS: dict[str, Callable[[], keras.Model]] = {
    "convolutional": convolutional,
    "one-dimensional": one_dimensional,
    "recurrent": recurrent,
}


def test_every_recipe_is_tested() -> None:
    assert set(recipes.names()) == set(LIMITS) | TRAINED


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_recipe_stays_near_to_keras_on_every_runtime(
    kind: str, name: str, converter: Converter, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    network = MODELS[kind]()
    x = np.random.default_rng(0).normal(size=(60, *network.input_shape[1:])).astype(np.float32)
    path = tmp_path / f"{name}.tflite"
    path.write_bytes(converter.convert(network, name, calibration=x))
    write_golden(tmp_path / "golden.npz", {name: path}, x)
    with np.load(tmp_path / "golden.npz") as golden:
        outputs = golden[path.name]
    expected = np.asarray(network(x[:8]))
    assert np.abs(outputs - expected).max() <= LIMITS[name] * np.ptp(expected)
    for runtime in RUNS_ON[name]:
        verified = verification.verify(path, tmp_path / "golden.npz", runtime=runtime)
        assert verified.passed, verified


def test_each_recipe_has_the_types_it_promises(converter: Converter) -> None:
    network = one_dimensional()
    x = RNG.normal(size=(20, 40, 6)).astype(np.float32)
    sizes = {}
    for name in LIMITS:
        recipe = recipes.get(name)
        data = converter.convert(network, name, calibration=x)
        sizes[name] = len(data)
        with load(data, runtime="litert") as loaded:
            spec = loaded.signatures()["infer"]
        if name != "mixed":
            assert spec.inputs["x"].dtype == np.dtype(recipe.activations)
            assert spec.outputs["output"].dtype == np.dtype(recipe.activations)
    assert sizes["int4"] < sizes["int8"] < sizes["float16"] < sizes["float32"]
