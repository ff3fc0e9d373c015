"""A file in which equal vectors are stored once computes the same, bit for bit, and is smaller."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers
from tensorflow.lite.python.schema_py_generated import BufferT, SubGraphT, TensorT

from hedgerow.hardware import vela
from hedgerow.hardware.runtime import installed
from hedgerow.quantization import Converter, recipes
from hedgerow.quantization.compact import _shorten_names, compact

Pair = tuple[bytes, bytes, np.ndarray]


def separable() -> keras.Model:
    """Many channels and few weights, as in DS-CNN."""
    image = x = keras.Input((8, 8, 3))
    for _ in range(3):
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = layers.Conv2D(48, 1, activation="relu")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def recurrent() -> keras.Model:
    """Becomes the fused LSTM, with variable tensors and buffers that nothing reads."""
    return keras.Sequential([keras.Input((6, 5)), layers.LSTM(8), layers.Dense(3, activation="softmax")])


@pytest.fixture(
    scope="module",
    params=[(separable, "int8"), (separable, "int16x8"), (separable, "float32"), (recurrent, "int8")],
)
def pair(request: pytest.FixtureRequest, converter: Converter) -> Pair:
    """A file as the converter writes it, the same in short, and examples."""
    build, recipe = request.param
    keras.utils.set_random_seed(0)
    model = build()
    examples = np.random.default_rng(1).normal(size=(20, *model.input_shape[1:])).astype(np.float32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hedgerow.quantization.converter.compact", lambda content: content)
        content = converter.convert(model, recipes.get(recipe), calibration=examples)
    return content, compact(content), examples


def test_it_is_smaller_and_short_already_the_second_time(pair: Pair) -> None:
    long, short, _ = pair
    assert len(short) < len(long)
    assert compact(short) == short
    model = schema.Model.GetRootAsModel(long, 0)
    channels = sum(
        tensor.Quantization().ZeroPointLength() if tensor.Quantization() else 0
        for tensor in (model.Subgraphs(0).Tensors(i) for i in range(model.Subgraphs(0).TensorsLength()))
    )
    if channels > 300:
        assert len(long) - len(short) > 6 * channels, "zero points of 8 bytes are nearly all alike"


def test_each_tensor_keeps_a_name_of_its_own_that_says_where_it_comes_from(pair: Pair) -> None:
    long, short = (_names(content) for content in pair[:2])
    assert len(set(short)) == len(set(long))
    for before, after in zip(long, short, strict=True):
        assert after == before or after in before.split(";")
    assert sum(map(len, short)) <= sum(map(len, long))


def test_a_name_that_is_taken_stays_long() -> None:
    graph = SubGraphT()
    graph.tensors = [TensorT(), TensorT(), TensorT(), TensorT()]
    for tensor, name in zip(graph.tensors, (b"a;b", b"a;b;c", b"b", b"a;b;c;d"), strict=True):
        tensor.name, tensor.buffer = name, 0
    _shorten_names(graph, [BufferT()])
    assert [tensor.name for tensor in graph.tensors] == [b"a", b"c", b"b", b"d"]
    _shorten_names(graph, [BufferT()])
    assert [tensor.name for tensor in graph.tensors] == [b"a", b"c", b"b", b"d"]


def _names(content: bytes) -> list[str]:
    graph = schema.Model.GetRootAsModel(content, 0).Subgraphs(0)
    return [graph.Tensors(index).Name().decode() for index in range(graph.TensorsLength())]


def test_buffers_are_aligned_as_the_schema_asks(pair: Pair) -> None:
    model = schema.Model.GetRootAsModel(pair[1], 0)
    for index in range(model.BuffersLength()):
        table = model.Buffers(index)._tab
        if place := table.Offset(4):
            assert table.VectorLen(place) == 0 or table.Vector(place) % 16 == 0


def test_both_runtimes_compute_the_same_bits(pair: Pair, tmp_path: Path, device_run) -> None:
    long, short, examples = pair
    jobs = []
    details = schema.Model.GetRootAsModel(long, 0)
    signature = details.SignatureDefs(0)
    name = signature.Inputs(0).Name().decode()
    tensor = details.Subgraphs(0).Tensors(signature.Inputs(0).TensorIndex())
    inputs = examples
    if tensor.Type() != schema.TensorType.FLOAT32:
        integer = np.int8 if tensor.Type() == schema.TensorType.INT8 else np.int16
        quantization = tensor.Quantization()
        inputs = np.round(examples / quantization.Scale(0) + quantization.ZeroPoint(0)).astype(integer)
    for label, content in (("long", long), ("short", short)):
        file = tmp_path / f"{label}.tflite"
        file.write_bytes(content)
        calls = [(signature.SignatureKey().decode(), {name: example[None]}) for example in inputs]
        jobs.append((file, calls))
    for runtime in installed():
        wanted, found = device_run(runtime, jobs)
        for one, other in zip(wanted, found, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)


def test_vela_maps_it_alike(pair: Pair, tmp_path: Path) -> None:
    reports = []
    for label, content in zip(("long", "short"), pair[:2], strict=True):
        file = tmp_path / f"{label}.tflite"
        file.write_bytes(content)
        reports.append(vela.compile(file, "ethos-u55-128", tmp_path / label))
    assert reports[0].cycles == reports[1].cycles
    assert reports[0].npu_percent == reports[1].npu_percent
