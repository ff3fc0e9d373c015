"""The cost of a signature: against values worked out by hand, and the arena of the runtimes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers

from hedgerow import errors
from hedgerow.hardware.graph import Graph, GraphOperator, GraphTensor, ModelGraphs, read_graphs
from hedgerow.hardware.inspection import inspect_file, peak_bytes
from hedgerow.hardware.runtime import installed
from hedgerow.models.trainable.conversion import convert
from hedgerow.quantization import Converter

# The extent of all tensors that are neither constants nor outside the arena, as the runtime placed them.
ARENA = """
import json, sys
from hedgerow.hardware import interpreter
from hedgerow.hardware.graph import read_graphs
runtime, *files = sys.argv[1:]
found = []
for file in files:
    _, module = interpreter._import_runtime(runtime)
    kernels = module.OpResolverType.BUILTIN_REF
    engine = module.Interpreter(file, experimental_op_resolver_type=kernels)
    engine.allocate_tensors()
    graph = read_graphs(file).graphs[0]
    views = [engine.tensor(i)() for i, tensor in enumerate(graph.tensors) if not tensor.constant]
    ends = [(view.ctypes.data, view.ctypes.data + view.nbytes) for view in views if view.size]
    found.append(max(end for _, end in ends) - min(start for start, _ in ends))
print(json.dumps(found))
"""


def of(function: Callable[..., Any], **specs: list[int]) -> bytes:
    """A file with one signature `f` that takes float tensors of these shapes."""
    signature = {name: tf.TensorSpec(shape, name=name) for name, shape in specs.items()}

    def named(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"out": function(**inputs)}

    concrete = tf.function(named, autograph=False).get_concrete_function(**signature)
    return convert(tf.Module(), {"f": concrete})


def test_a_dense_layer_counts_its_products_and_its_tensors() -> None:
    report = inspect_file(of(lambda x, w: tf.tanh(tf.matmul(x, w)), x=[2, 3], w=[3, 4])).signatures["f"]
    assert report.operators == {"BATCH_MATMUL": 1, "TANH": 1}
    assert report.flops == 2 * 2 * 3 * 4 + 8
    # The inputs stay; the product and its tangent are alive at once.
    assert report.peak_bytes == 4 * (6 + 12 + 8 + 8)
    assert report.weight_bytes == report.constant_bytes == 0


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        # out 6x6x4, each from 3x3x2; out 3x3x4 with a stride of 2; dilated to 5x5, out 4x4.
        (layers.Conv2D(4, 3), (8, 8, 2), 6 * 6 * 4 * 3 * 3 * 2),
        (layers.Conv2D(4, 3, strides=2), (8, 8, 2), 3 * 3 * 4 * 3 * 3 * 2),
        (layers.Conv2D(4, 3, dilation_rate=2), (8, 8, 2), 4 * 4 * 4 * 3 * 3 * 2),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 2), 6 * 6 * 4 * 3 * 3),
        (layers.Conv1D(5, 4), (10, 3), 7 * 5 * 4 * 3),
        (layers.Conv3D(4, 2), (4, 4, 4, 2), 3 * 3 * 3 * 4 * 2 * 2 * 2 * 2),
        # Each of the 4x4x2 inputs goes to 3x3x5 outputs.
        (layers.Conv2DTranspose(5, 3, strides=2), (4, 4, 2), 4 * 4 * 2 * 3 * 3 * 5),
        (layers.Dense(7), (11,), 11 * 7),
        # Four gates from 3 inputs and 5 states, in 6 steps.
        (layers.LSTM(5), (6, 3), 6 * 4 * 5 * (3 + 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else str(value),
)
def test_the_products_of_a_layer_are_those_worked_out_by_hand(
    layer: Any, shape: tuple[int, ...], products: int, converter: Converter
) -> None:
    file = converter.convert(keras.Sequential([keras.Input(shape), layer]), "float32")
    report = inspect_file(file).signatures["infer"]
    # What is not a product is one operation for each number that an operator makes.
    rest = report.flops - 2 * products
    assert 0 <= rest <= 4 * sum(tensor.elements for tensor in read_graphs(file).graphs[0].tensors)
    exact = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "RESHAPE", "EXPAND_DIMS", "SQUEEZE"}
    if set(report.operators) <= exact:
        assert rest == 0


def step(x: tf.Tensor, w: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """A training step by hand: two layers of the same weights, and the gradient of a square error."""
    hidden = tf.tanh(tf.matmul(x, w))
    error = tf.matmul(hidden, w) - y
    back = tf.matmul(error, w, transpose_b=True) * (1.0 - hidden * hidden)
    return w - 0.01 * (tf.matmul(x, back, transpose_a=True) + tf.matmul(hidden, error, transpose_a=True))


@pytest.mark.parametrize("runtime", installed())
def test_the_peak_is_the_arena_of_the_runtime(runtime: str, tmp_path: Path, converter: Converter) -> None:
    convnet = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    (tmp_path / "convnet.tflite").write_bytes(converter.convert(convnet, "float32"))
    (tmp_path / "step.tflite").write_bytes(of(step, x=[32, 64], w=[64, 64], y=[32, 64]))
    files = [tmp_path / "convnet.tflite", tmp_path / "step.tflite"]
    command = [sys.executable, "-c", ARENA, runtime, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for file, arena in zip(files, json.loads(done.stdout), strict=True):
        (report,) = inspect_file(file).signatures.values()
        # The runtime aligns each tensor to 64 bytes, and plans greedily.
        assert report.peak_bytes <= arena <= 1.1 * report.peak_bytes + 1024, file.name


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelFileError, match="TFL3"):
        inspect_file(b"0123456789")
    with pytest.raises(errors.ModelFileError, match=r"none\.tflite.*No such file"):
        inspect_file(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("some text that is no model")
    with pytest.raises(errors.ModelFileError, match=r"'text\.tflite'"):
        inspect_file(tmp_path / "text.tflite")


def _graph(*operators: GraphOperator) -> Graph:
    return Graph((GraphTensor("t", (4,), "float32", (), (), False, False, 16),), operators, (0,), (0,))


def test_a_loop_adds_what_its_body_needs_and_one_that_runs_itself_is_no_model() -> None:
    def model(*bodies: tuple[int, ...]) -> ModelGraphs:
        graphs = tuple(
            _graph(*(GraphOperator(i, "WHILE", 1, (0,), (0,), subgraphs=(to,)) for i, to in enumerate(inner)))
            for inner in bodies
        )
        return ModelGraphs(0, "", graphs, {}, 0, {})

    assert peak_bytes(model(()), 0) == 16
    # A tensor of each of three subgraphs, one in the other.
    assert peak_bytes(model((1,), (2,), ()), 0) == 3 * 16
    # Forty subgraphs that each run the next one eight times: as many ways as atoms, one pass.
    deep = [(place + 1,) * 8 for place in range(39)] + [()]
    assert peak_bytes(model(*deep), 0) == 40 * 16
    assert len(model(*deep).reachable(0)) == 40
    with pytest.raises(errors.ModelFileError, match="runs itself"):
        peak_bytes(model((1,), (0,)), 0)
