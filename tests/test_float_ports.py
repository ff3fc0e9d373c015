"""The rewritten program against the file it came from: equal codes in, equal numbers out."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import ModelFileError
from hedgerow.hardware import interpreter
from hedgerow.hardware.float_ports import with_float_ports
from hedgerow.hardware.inference import Inference, dequantize
from hedgerow.models import export_trainable

from .conftest import DeviceRun

pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
MLPERF = Path(__file__).parent / "data" / "mlperf-tiny"


def two_by_two(kind: tf.DType) -> bytes:
    """A model with two inputs and two outputs, quantized to the kind."""
    first, second = keras.Input((7,), 1), keras.Input((7,), 1)
    joined = keras.layers.Concatenate()([first, second])
    outputs = [keras.layers.Dense(6, activation="relu")(joined), keras.layers.Dense(3)(first)]
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model([first, second], outputs))
    random = np.random.default_rng(0)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [random.normal(size=(1, 7)).astype("f4"), random.normal(size=(1, 7)).astype("f4")] for _ in range(20)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = kind
    data: bytes = converter.convert()
    return data


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Quantized programs: foreign ones without a signature, and ones with several inputs and outputs."""
    keras.utils.set_random_seed(0)
    foreign = ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"]
    found = {name: (MLPERF / f"{name}.tflite").read_bytes() for name in foreign}
    return found | {"int8": two_by_two(tf.int8), "uint8": two_by_two(tf.uint8)}


@pytest.mark.parametrize("runtime", ["tflite", "litert"])
def test_equal_codes_give_equal_numbers(
    runtime: str, files: dict[str, bytes], device_run: DeviceRun, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    cases, specs = [], []
    for name, data in files.items():
        changed = with_float_ports(data)
        assert changed is not None
        with (
            interpreter.load(data, runtime="litert") as old,
            interpreter.load(changed, runtime="litert") as new,
        ):
            ((signature, before),), ((same, after),) = old.signatures().items(), new.signatures().items()
        assert signature == same
        assert all(
            spec.dtype == np.float32 and spec.scale == 0.0
            for spec in (*after.inputs.values(), *after.outputs.values())
        )
        integers = {
            port: random.integers(
                np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max + 1, np.abs(spec.shape), spec.dtype
            )
            for port, spec in before.inputs.items()
        }
        floats = {
            port: dequantize(codes, before.inputs[key])
            for port, (key, codes) in zip(after.inputs, integers.items(), strict=True)
        }
        paths = tmp_path / f"{name}.tflite", tmp_path / f"{name}.float.tflite"
        for path, content in zip(paths, (data, changed), strict=True):
            path.write_bytes(content)
        cases += [(paths[0], [(signature, integers)]), (paths[1], [(signature, floats)])]
        specs.append((before, after))
    outputs = device_run(runtime, cases)
    for place, (before, after) in enumerate(specs):
        (old_run,), (new_run,) = outputs[2 * place : 2 * place + 2]
        for (key, spec), port in zip(before.outputs.items(), after.outputs, strict=True):
            np.testing.assert_array_equal(new_run[port], dequantize(old_run[key], spec))
            assert len(np.unique(old_run[key])) > 1


def test_real_numbers_are_rounded_to_a_code_next_to_them(files: dict[str, bytes]) -> None:
    x = np.random.default_rng(2).uniform(-30.0, 30.0, (20, 640)).astype("f4")
    data = files["ad01_int8"]
    with (
        Inference(data, runtime="litert") as by_hand,
        Inference(data, runtime="litert", float_ports=True) as in_runtime,
    ):
        (expected,), (received,) = by_hand.predict(x), in_runtime.predict(x)
        (spec,) = by_hand.spec.outputs.values()
    assert np.abs(received - expected).max() <= 2 * spec.scale


def test_programs_that_cannot_be_changed_are_left_alone(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    trainable = tmp_path / "model.train.tflite"
    export_trainable(model, trainable, batch_size=2, loss="mse", optimizer="sgd")
    assert with_float_ports(trainable.read_bytes()) is None
    assert with_float_ports((MLPERF / "ad01_fp32.tflite").read_bytes()) is None
    with pytest.raises(ModelFileError, match="TFL3"):
        with_float_ports(b"no model at all")
    with pytest.raises(ModelFileError, match=r"gone\.tflite.*No such file"):
        Inference(tmp_path / "gone.tflite", float_ports=True)


@given(data=st.data())
def test_a_damaged_file_is_left_to_the_runtime(data: st.DataObject) -> None:
    whole = bytearray((MLPERF / "ad01_int8.tflite").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        # The tables are in the first and the last kilobytes, the weights between them.
        place = data.draw(st.integers(8, 4000)) * data.draw(st.sampled_from([1, -1]))
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), len(whole) // 2, 3000, 100, 8]))
    try:
        changed = with_float_ports(bytes(whole[:cut]))
    except ModelFileError:
        return
    assert changed is None or changed[4:8] == b"TFL3"
