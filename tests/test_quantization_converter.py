"""Conversion: what comes out, that it is the same each time, and every way that it can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import (
    CalibrationError,
    ConverterError,
    DynamicShapeError,
    QuantizationError,
    RecipeError,
    UnsupportedLayerError,
)
from hedgerow.hardware import interpreter
from hedgerow.hardware.inference import Inference
from hedgerow.quantization import Converter

EXAMPLES = np.random.default_rng(0).uniform(-1, 1, size=(50, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ],
        name="small",
    )


def test_a_float_file_answers_like_keras(network: keras.Model, converter: Converter) -> None:
    data = converter.convert(network, "float32")
    with Inference(data, runtime="litert") as inference:
        (outputs,) = inference.predict(EXAMPLES)
    np.testing.assert_allclose(outputs, np.asarray(network(EXAMPLES)), atol=1e-6)


def test_an_int8_file_is_int8_from_end_to_end(network: keras.Model, converter: Converter) -> None:
    data = converter.convert(network, "int8", calibration=EXAMPLES)
    with interpreter.load(data, runtime="litert") as loaded:
        assert set(loaded.signatures()) == {"infer"}
        spec = loaded.signatures()["infer"]
    assert {name: (s.dtype.name, s.shape) for name, s in spec.inputs.items()} == {"x": ("int8", (1, 8, 8, 2))}
    assert {name: (s.dtype.name, s.shape) for name, s in spec.outputs.items()} == {"output": ("int8", (1, 3))}
    # A softmax is quantized to 1/256 by definition.
    assert (spec.outputs["output"].scale, spec.outputs["output"].zero_point) == (1 / 256, -128)
    with Inference(data, runtime="litert", reference_kernels=True) as inference:
        (outputs,) = inference.predict(EXAMPLES)
    assert np.abs(outputs - np.asarray(network(EXAMPLES))).max() < 0.03


@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_the_same_model_gives_the_same_bytes(recipe: str, network: keras.Model, converter: Converter) -> None:
    first = converter.convert(network, recipe, calibration=EXAMPLES)
    assert converter.convert(network, recipe, calibration=EXAMPLES) == first
    with Converter() as other:
        assert other.convert(network, recipe, calibration=EXAMPLES) == first


def test_several_inputs_and_outputs_have_numbered_names(converter: Converter) -> None:
    left, right = keras.Input((4,)), keras.Input((2,))
    joined = layers.Concatenate()([left, right])
    two = keras.Model([left, right], [layers.Dense(3)(joined), layers.Dense(1)(joined)])
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=(20, 2)).astype(np.float32)]
    data = converter.convert(two, "int8", calibration=inputs)
    with interpreter.load(data, runtime="litert") as loaded:
        spec = loaded.signatures()["infer"]
    assert set(spec.inputs) == {"x0", "x1"}
    assert set(spec.outputs) == {"output0", "output1"}
    exact = converter.convert(two, "float32")
    with interpreter.load(exact, runtime="litert") as loaded:
        outputs = loaded.run("infer", {"x0": inputs[0][:1], "x1": inputs[1][:1]})
    expected = two([array[:1] for array in inputs])
    np.testing.assert_allclose(outputs["output0"], expected[0], atol=1e-6)
    np.testing.assert_allclose(outputs["output1"], expected[1], atol=1e-6)


def test_integer_inputs_stay_integers(converter: Converter) -> None:
    words = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(10, 4), layers.Flatten(), layers.Dense(2)]
    )
    examples = np.random.default_rng(0).integers(0, 10, size=(30, 6))
    data = converter.convert(words, "int8", calibration=examples)
    with Inference(data, runtime="litert", reference_kernels=True) as inference:
        assert next(iter(inference.spec.inputs.values())).dtype == np.int32
        (outputs,) = inference.predict(examples)
    expected = np.asarray(words(examples))
    assert np.abs(outputs - expected).max() < 0.03 * np.ptp(expected)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (None, "needs calibration"),
        (EXAMPLES[:0], "received none"),
        (EXAMPLES[:, :4], "shapes"),
        (np.full((2, 8, 8, 2), np.nan, np.float32), "NaN or infinity in example 0"),
        ([EXAMPLES, EXAMPLES], "shapes"),
    ],
)
def test_calibration_examples_are_checked(
    examples: np.ndarray | None, message: str, network: keras.Model, converter: Converter
) -> None:
    with pytest.raises(CalibrationError, match=message):
        converter.convert(network, "int8", calibration=examples)


def test_models_that_cannot_be_converted_are_told_so_before(converter: Converter) -> None:
    volume = keras.Sequential([keras.Input((4, 4, 4, 1)), layers.Conv3D(2, 3, name="voxels")])
    with pytest.raises(UnsupportedLayerError, match=r"voxels.*CONV_3D"):
        converter.convert(volume, "int8", calibration=np.zeros((2, 4, 4, 4, 1), np.float32))
    assert len(converter.convert(volume, "float32")) > 0
    open_size = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 3)])
    with pytest.raises(DynamicShapeError, match=r"\(None, None, 3\)"):
        converter.convert(open_size, "float32")
    with pytest.raises(QuantizationError, match="Input"):
        converter.convert(keras.Sequential([layers.Dense(2)]), "float32")
    with pytest.raises(RecipeError, match=r"float32.*'int7'"):
        converter.convert(volume, "int7")


def test_an_operator_that_tflite_lacks_is_the_converter_s_error(converter: Converter) -> None:
    bessel = keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: keras.ops.erfinv(x), name="erfinv")]
    )
    with pytest.raises(ConverterError, match="Erfinv"):
        converter.convert(bessel, "float32")


def test_a_parent_that_is_killed_leaves_no_files() -> None:
    script = (
        "import time; from hedgerow.quantization.converter_process import ConverterProcess as C\n"
        "one = C(); one.start(); print(one.log.parent, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        assert folder.is_dir()
        parent.kill()
    until = time.monotonic() + 120.0
    while folder.exists():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_a_converter_that_crashes_is_an_error_and_is_replaced(network: keras.Model) -> None:
    with Converter() as converter:
        process = converter._process.process
        assert process is not None
        # Stopped before it is asked, killed while it is: the end of the process is the answer.
        os.kill(process.pid, signal.SIGSTOP)
        killer = threading.Timer(3.0, process.kill)
        killer.start()
        with pytest.raises(ConverterError, match=r"crashed.*SIGKILL"):
            converter.convert(network, "float32")
        killer.join()
        assert len(converter.convert(network, "float32")) > 0


def test_closing_leaves_no_process_and_no_files() -> None:
    converter = Converter()
    folder = converter._process.log.parent
    with converter:
        process = converter._process.process
        assert process is not None and process.poll() is None and folder.is_dir()
    assert process.poll() is not None
    assert not folder.exists()
