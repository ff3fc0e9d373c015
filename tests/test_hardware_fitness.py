"""What a target runs of a file: placements by rules and by the compiler, memory, advice, damaged files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from hedgerow.errors import HedgerowError, InterpreterError, ModelFileError, UsageError
from hedgerow.hardware import benchmark, fitness, targets, vela
from hedgerow.hardware.graph import read_graphs
from hedgerow.hardware.targets import Accelerator, Constraint, Memory, Rules, Target
from hedgerow.models import export_trainable
from hedgerow.models.trainable.conversion import convert
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


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("trainable") / "trainable.tflite"
    network = keras.Sequential([keras.Input((6,)), layers.Dense(4, activation="relu"), layers.Dense(3)])
    export_trainable(network, file, loss="sparse_categorical_crossentropy", batch_size=2)
    return file.read_bytes()


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
        ("float32", "ios-coreml", False, "RESHAPE"),
        ("float32", "coral-edge-tpu", False, "CONV_2D"),
        ("float32", "ethos-u55-128", False, "CONV_2D"),
        ("int4", "linux-x86-64-litert", True, ""),
        ("int4", "linux-x86-64-tflite", False, "DEQUANTIZE"),
        ("bidirectional", "linux-armv7-tflite", True, ""),
        ("bidirectional", "ethos-u55-128", False, "REVERSE_V2"),
        # TFLite Micro has REVERSE_V2 since 2026; where it is installed it is asked.
        ("bidirectional", "cortex-m7", True, ""),
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


def test_an_operator_must_be_as_its_constraint_says(files: dict[str, bytes]) -> None:
    def reason(name: str, rule: Constraint) -> str:
        rules = Rules(constraints={name: rule})
        chip = Target(name="chip", title="", runtimes=("x",), kinds=("int8",), cpu=rules)
        fallback = fitness.check(files["int8"], chip).first_fallback
        return fallback.reason if fallback else ""

    # [1, 8, 8, 1] through 3x3 with a fused ReLU to [1, 6, 6, 4], flat to [1, 144], dense to [1, 3].
    assert reason("CONV_2D", Constraint(constant=(1, 2), dilation=False, largest_stride=1, ranks=(4,))) == ""
    assert "activation 0, this has 1" in reason("CONV_2D", Constraint(options={"activation": 0}))
    assert "of float32, this has int8" in reason("CONV_2D", Constraint(dtypes=("float32",)))
    assert "constant input 0" in reason("CONV_2D", Constraint(constant=(0,)))
    assert "2 to 3 sizes, this has [1, 8, 8, 1]" in reason("CONV_2D", Constraint(ranks=(2, 3)))
    assert "at most 143 numbers, this has 144" in reason("FULLY_CONNECTED", Constraint(largest=143))
    assert reason("FULLY_CONNECTED", Constraint(largest=144, single_batch=True)) == ""


def test_constraints_on_strides_dilation_batches_and_axes() -> None:
    def graph(x: tf.Tensor, kernel: tf.Tensor) -> dict[str, tf.Tensor]:
        wide = tf.nn.conv2d(x, kernel, 1, "VALID", dilations=2)
        far = tf.nn.conv2d(x, kernel, 3, "VALID")
        padded = tf.pad(x, [[0, 0], [1, 1], [0, 0], [0, 2]])
        return {"a": wide, "b": far, "c": tf.reduce_mean(padded, axis=[-1, 1])}

    specs = {"x": tf.TensorSpec([2, 9, 9, 3]), "kernel": tf.TensorSpec([3, 3, 3, 4])}
    file = convert(tf.Module(), {"f": tf.function(graph, autograph=False).get_concrete_function(**specs)})

    def reasons(name: str, rule: Constraint) -> list[str]:
        chip = Target(
            name="chip", title="", runtimes=("x",), kinds=("int8",), cpu=Rules(constraints={name: rule})
        )
        return [one.reason for one in fitness.check(file, chip).placements if one.reason]

    # The kernel is given at run time, so that it is a computed input.
    assert len(reasons("CONV_2D", Constraint(constant=(1,)))) == 2
    assert "2 examples" not in str(reasons("CONV_2D", Constraint()))
    assert "one example, this has 2" in str(reasons("CONV_2D", Constraint(single_batch=True)))
    assert [
        "strides up to 2, this has 3" in one for one in reasons("CONV_2D", Constraint(largest_stride=2))
    ] == [True]
    assert "along the axes [1, 2], this is along [1, 3]" in str(reasons("PAD", Constraint(axes=(1, 2))))
    assert "along the axes [1, 2], this is along [1, 3]" in str(reasons("MEAN", Constraint(axes=(1, 2))))
    assert reasons("MEAN", Constraint(axes=(1, 3))) == []


def test_a_trainable_file_is_checked_in_all_its_signatures_where_it_may_train(trainable: bytes) -> None:
    model = read_graphs(trainable)
    found = fitness.check(trainable, targets.load("raspberry-pi-4"))
    assert found.runs_as_asked
    assert len(found.placements) > len(model.graphs[model.inference].operators)
    elsewhere = fitness.check(trainable, targets.load("cortex-m4"))
    assert not elsewhere.runs_as_asked
    assert "trainable" in elsewhere.failure
    assert "int8" in elsewhere.advice


def test_an_open_size_falls_off_an_accelerator_and_an_open_batch_does_not() -> None:
    def check(shape: list[int | None]) -> fitness.Fitness:
        def double(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.nn.relu(x) * 2.0}

        function = tf.function(double, autograph=False).get_concrete_function(
            x=tf.TensorSpec(shape, name="x")
        )
        return fitness.check(convert(tf.Module(), {"f": function}), targets.load("android-gpu"))

    assert check([None, 4]).runs_as_asked
    found = check([1, None])
    assert not found.runs_as_asked
    assert found.first_fallback is not None
    assert "sizes that are fixed, this has [1, -1]" in found.first_fallback.reason
    assert "fixed" in found.advice


def test_a_compiled_file_runs_where_it_was_compiled_for(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "int8.tflite").write_bytes(files["int8"])
    output = vela.compile(tmp_path / "int8.tflite", "ethos-u55-128", tmp_path).output
    assert fitness.check(output, targets.load("ethos-u55-128")).runs_as_asked
    other = fitness.check(output, targets.load("ethos-u85-256"))
    assert (other.runs_as_asked, other.failure) == (False, "it was compiled for ethos-u55-128")
    found = fitness.check(output, targets.load("linux-x86-64-tflite"))
    assert found.first_fallback is not None
    assert found.first_fallback.reason == "ethos-u is a custom operator"
    assert "built-in" in found.advice


@pytest.mark.parametrize("target", targets.names())
def test_no_pair_of_a_file_and_a_target_crashes(
    target: str, files: dict[str, bytes], trainable: bytes
) -> None:
    for file in (*files.values(), trainable):
        found = fitness.check(file, targets.load(target), run=False)
        assert found.runs_as_asked or found.advice
        assert fitness.summary(found)["runs_as_asked"] is found.runs_as_asked
        assert sum(sum(places.values()) for places in fitness.operator_counts(found).values()) == len(
            found.placements
        )


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
    # Real numbers are quantized on the way, and taken in turn.
    np.savez(tmp_path / "x.npz", EXAMPLES[:5])
    given_inputs = benchmark.benchmark(path, data=tmp_path / "x.npz", runs=7)
    assert (given_inputs.runs, given_inputs.inputs, found.inputs) == (7, "given", "random")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8, 8), np.int8))
    with pytest.raises(InterpreterError, match=r"int8\[1, 8, 8\]"):
        benchmark.benchmark(path, data=tmp_path / "x.npz", runs=3)
    np.savez(tmp_path / "x.npz", a=EXAMPLES, b=EXAMPLES)
    with pytest.raises(InterpreterError, match=r"'a', 'b'"):
        benchmark.benchmark(path, data=tmp_path / "x.npz", runs=3)
    with pytest.raises(UsageError, match="'toaster'"):
        benchmark.benchmark(path, runtime="toaster")
    with pytest.raises(UsageError, match="runs"):
        benchmark.benchmark(path, runs=0)
    path.write_bytes(files["int8"][:500])
    with pytest.raises(HedgerowError, match=r"int8\.tflite"):
        benchmark.benchmark(path, runs=3)
