"""What a target runs of a file: placements by rules and by the compiler, memory, advice, damaged files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from hedgerow.errors import HedgerowError, InterpreterError, ModelFileError, UsageError
from hedgerow.hardware import benchmark, fitness, targets
from hedgerow.hardware.graph import read_graphs
from hedgerow.hardware.targets import Accelerator, Memory, Rules, Target
from hedgerow.quantization import Converter

EXAMPLES = np.random.default_rng(0).normal(size=(30, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def files(converter: Converter) -> dict[str, bytes]:
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    found = {
        name: converter.convert(network, name, calibration=EXAMPLES) for name in ("float32", "int8", "int4")
    }
    steps = np.random.default_rng(0).normal(size=(20, 6, 2)).astype(np.float32)
    both = keras.Sequential([keras.Input((6, 2)), layers.Bidirectional(layers.LSTM(4)), layers.Dense(2)])
    return found | {"bidirectional": converter.convert(both, "int8", calibration=steps)}


def test_a_graph_is_read_as_it_is(files: dict[str, bytes]) -> None:
    model = read_graphs(files["int8"])
    assert model.signatures == {"infer": 0}
    assert model.size_bytes == len(files["int8"])
    (graph,) = model.graphs
    assert [operator.name for operator in graph.operators] == [
        "CONV_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    (x,) = (graph.tensors[place] for place in graph.inputs)
    assert (x.shape, x.dtype, x.constant, x.size_bytes) == ((1, 8, 8, 1), "int8", False, 64)
    assert len(x.scales) == 1
    kernel = graph.tensors[graph.operators[0].inputs[1]]
    # One scale for each of the four output channels.
    assert (kernel.shape, kernel.constant, len(kernel.scales)) == ((4, 3, 3, 1), True, 4)


def test_the_state_of_an_lstm_is_a_variable(files: dict[str, bytes]) -> None:
    tensors = read_graphs(files["bidirectional"]).graphs[0].tensors
    assert sorted(tensor.dtype for tensor in tensors if tensor.variable) == ["int16", "int16", "int8", "int8"]


@pytest.mark.parametrize(
    ("file", "target", "runs", "first"),
    [
        ("int8", "raspberry-pi-zero-2", True, ""),
        ("int8", "coral-edge-tpu", True, ""),
        ("int8", "cortex-m4", True, ""),
        ("int8", "ethos-u55-32", True, ""),
        ("int8", "ethos-u65-512", True, ""),
        ("int8", "ethos-u85-2048", True, ""),
        ("int8", "android-gpu", False, "CONV_2D"),
        ("float32", "android-gpu", True, ""),
        ("float32", "ios-coreml", True, ""),
        ("float32", "coral-edge-tpu", False, "CONV_2D"),
        ("float32", "ethos-u55-128", False, "CONV_2D"),
        ("int4", "linux-x86-64-litert", True, ""),
        ("int4", "linux-x86-64-tflite", False, "DEQUANTIZE"),
        ("bidirectional", "linux-armv7-tflite", True, ""),
        ("bidirectional", "ethos-u55-128", False, "REVERSE_V2"),
        ("bidirectional", "cortex-m7", False, "REVERSE_V2"),
    ],
)
def test_a_file_runs_on_a_target_or_says_what_does_not(
    file: str, target: str, runs: bool, first: str, files: dict[str, bytes]
) -> None:
    found = fitness.check(files[file], targets.load(target))
    assert found.runs_as_asked is runs
    assert (found.first_fallback.operator.name if found.first_fallback else "") == first
    assert bool(found.advice) is not runs
    assert (found.accelerated_percent == 100.0) is runs
    compiled = found.target.compiled and file in ("int8", "bidirectional")
    assert (found.compiled is not None) is compiled


def test_after_the_first_operator_that_falls_off_nothing_is_accelerated(files: dict[str, bytes]) -> None:
    def place(*, prefix_only: bool) -> list[str]:
        rules = Rules(excluded=("RESHAPE",), prefix_only=prefix_only)
        chip = Target(
            name="chip",
            title="",
            runtimes=("x",),
            kinds=("int8",),
            accelerator=Accelerator(name="NPU", rules=rules),
        )
        return [placement.where for placement in fitness.check(files["int8"], chip).placements]

    assert place(prefix_only=False) == ["NPU", "CPU", "NPU", "NPU"]
    assert place(prefix_only=True) == ["NPU", "CPU", "CPU", "CPU"]


def test_rules_look_at_types_versions_sizes_and_shapes(files: dict[str, bytes]) -> None:
    def reason(rules: Rules) -> str:
        chip = Target(name="chip", title="", runtimes=("x",), kinds=("int8",), cpu=rules)
        fallback = fitness.check(files["int8"], chip).first_fallback
        return fallback.reason if fallback else ""

    assert reason(Rules()) == ""
    assert "takes float32, this has int8" in reason(Rules(dtypes=("float32",)))
    assert "does not have CONV_2D" in reason(Rules(operators=("SOFTMAX",)))
    assert "up to version 0" in reason(Rules(versions={"SOFTMAX": 0}))
    # [1, 6, 6, 4] has three sizes above 1.
    assert reason(Rules(large_dimensions=3)) == ""
    assert "at most 2 sizes above 1, this has [1, 6, 6, 4]" in reason(Rules(large_dimensions=2))
    assert "no int32" in reason(Rules(excluded_dtypes=("int32",)))


def test_memory_is_compared_with_the_target_s(files: dict[str, bytes]) -> None:
    def check(memory: Memory) -> fitness.Fitness:
        chip = Target(name="chip", title="", runtimes=("x",), kinds=("int8",), memory=memory)
        return fitness.check(files["int8"], chip)

    found = check(Memory(weights_kib=1, activations_kib=1))
    assert (found.weights_fit, found.activations_fit, found.runs_as_asked) == (False, True, False)
    assert "int8" in found.advice
    # 64 bytes of input and 144 of the convolution's output live at one time.
    assert found.activations_kib * 1024 >= 64 + 144
    assert not check(Memory(activations_kib=0)).activations_fit


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_an_error_and_not_a_crash(data: st.DataObject, files: dict[str, bytes]) -> None:
    whole = files["int8"]
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        fitness.check(bytes(damaged), targets.load("linux-x86-64-litert"))
    except ModelFileError as error:
        assert str(error)


def test_files_that_are_none_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        read_graphs(tmp_path / "none.tflite")
    with pytest.raises(ModelFileError, match="TFL3"):
        read_graphs(b"not a model at all")


def test_a_file_is_measured_in_a_process_of_its_own(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "int8.tflite"
    path.write_bytes(files["int8"])
    found = benchmark.benchmark(path, runtime="tflite", runs=10, warm_up=1)
    assert found.runtime.startswith("tflite 2.")
    assert 0 < found.minimum_ms <= found.p50_ms <= found.p90_ms <= found.p99_ms <= found.maximum_ms
    assert found.size_bytes == len(files["int8"])
    assert 10 < found.peak_mib < 300
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8, 8, 1), np.int8))
    assert benchmark.benchmark(path, inputs=tmp_path / "x.npz", runs=3).runs == 3
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8, 8), np.int8))
    with pytest.raises(InterpreterError, match=r"int8\[1, 8, 8\]"):
        benchmark.benchmark(path, inputs=tmp_path / "x.npz", runs=3)
    with pytest.raises(UsageError, match="runs"):
        benchmark.benchmark(path, runs=0)
    path.write_bytes(files["int8"][:500])
    with pytest.raises(HedgerowError, match=r"int8\.tflite"):
        benchmark.benchmark(path, runs=3)
