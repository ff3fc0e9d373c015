"""Float against int8 on real data: digits by a ConvNet, exercises by an LSTM, and what Vela makes of them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import CalibrationError
from hedgerow.hardware import vela
from hedgerow.models import datasets
from hedgerow.models.datasets import Dataset
from hedgerow.quantization import Converter, compare

Split = tuple[Dataset, Dataset]


def split(data: Dataset, train: int, test: int) -> Split:
    order = np.random.default_rng(0).permutation(len(data))
    return data.take(order[:train]), data.take(order[train : train + test])


@pytest.mark.slow
def test_digits_keep_their_accuracy_and_run_on_the_npu(converter: Converter, tmp_path: Path) -> None:
    train, test = split(datasets.mnist(), 1500, 500)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    check(network, train, test, converter, tmp_path, epochs=4, at_least=0.85)


@pytest.mark.slow
def test_exercises_keep_their_accuracy_and_run_on_the_npu(converter: Converter, tmp_path: Path) -> None:
    federation = datasets.federate_motion(seed=0)
    test = federation.test.take(np.random.default_rng(0).permutation(len(federation.test))[:500])
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input(federation.central.x.shape[1:]), layers.LSTM(32), layers.Dense(7, activation="softmax")]
    )
    check(network, federation.central, test, converter, tmp_path, epochs=6, at_least=0.4)


def check(
    network: keras.Model,
    train: Dataset,
    test: Dataset,
    converter: Converter,
    folder: Path,
    *,
    epochs: int,
    at_least: float,
) -> None:
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    network.fit(train.x, train.y, epochs=epochs, batch_size=32, verbose=0)
    files = {
        name: converter.convert(network, name, calibration=train.x[:200]) for name in ("float32", "int8")
    }
    comparison = compare(network, files, test.x, test.y)
    assert comparison.metric == "accuracy"
    assert comparison.reference.metrics["accuracy"] > at_least
    assert comparison.drop("float32") == 0
    assert abs(comparison.drop("int8")) <= 0.01
    assert comparison.files["int8"].agreement > 0.97
    confusion = comparison.files["int8"].confusion
    assert confusion is not None and confusion.sum() == len(test.y)
    path = folder / "int8.tflite"
    path.write_bytes(files["int8"])
    report = vela.compile(path, "ethos-u55-128", folder)
    assert report.npu_percent == 100.0
    assert not report.cpu_operators


def test_a_regression_is_measured_in_its_own_unit(converter: Converter) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)).astype(np.float32)
    network = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
    network.layers[0].kernel.assign([[1.0], [2.0], [3.0]])
    y = x @ np.float32([1, 2, 3]) + 0.5
    files = {name: converter.convert(network, name, calibration=x) for name in ("float32", "int8")}
    comparison = compare(network, files, x, y)
    assert comparison.metric == "mean_absolute_error"
    assert comparison.reference.confusion is None
    # The model is right but for the half that was added.
    assert comparison.reference.metrics["mean_absolute_error"] == pytest.approx(0.5, abs=1e-6)
    assert comparison.reference.metrics["mean_squared_error"] == pytest.approx(0.25, abs=1e-6)
    assert abs(comparison.drop("int8")) < 0.05
    with pytest.raises(CalibrationError, match="as many answers"):
        compare(network, files, x, y[:-1])
