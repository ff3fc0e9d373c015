"""TFLite Micro, xcore, and the compilers of Coral and of phones: run for real where they are installed.

`edgetpu_compiler` is in no registry and the phones' SDKs have terms of their own: of these two only the seam
is tested, Coral's with a stand-in that prints what version 16 printed, and the refusal where one is missing.
"""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import CompilerError, InterpreterError, ModelFileError
from hedgerow.hardware import (
    compilers,
    edgetpu,
    execution,
    fitness,
    litert_aot,
    micro,
    targets,
    verification,
    xcore,
)
from hedgerow.hardware.compilation import left_on_cpu
from hedgerow.hardware.graph import Graph, GraphOperator, GraphTensor, read_graphs
from hedgerow.quantization import Converter

needs_micro = pytest.mark.skipif(
    not micro.is_installed(), reason="tflite-micro is not installed: hedgerow[micro]"
)
needs_xcore = pytest.mark.skipif(
    not xcore.is_installed(), reason="xcore-opt is not on the PATH: hedgerow[xmos]"
)
# Loads a file into an arena of just so many bytes, and runs it.
IN_AN_ARENA = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
engine = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))
detail = engine.get_input_details(0)
engine.set_input(np.zeros(detail["shape"], detail["dtype"]), 0)
engine.invoke()
"""


@pytest.fixture(scope="module")
def files(converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("files")
    images = np.random.default_rng(0).normal(size=(30, 16, 16, 3)).astype(np.float32)
    steps = np.random.default_rng(0).normal(size=(30, 12, 4)).astype(np.float32)
    convnet = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu", padding="same"),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.Conv2D(16, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    wide = keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(3)])
    recurrent = keras.Sequential([keras.Input((12, 4)), layers.LSTM(8), layers.Dense(3)])
    made = {
        "convnet": converter.convert(convnet, "int8", calibration=images),
        "float32": converter.convert(convnet, "float32"),
        "dynamic": converter.convert(wide, "dynamic"),
        "lstm": converter.convert(recurrent, "int8", calibration=steps),
    }
    for name, data in made.items():
        (folder / f"{name}.tflite").write_bytes(data)
    return {name: folder / f"{name}.tflite" for name in made}


@needs_micro
def test_the_arena_is_what_the_model_takes_and_no_more(files: dict[str, Path]) -> None:
    arena = micro.measure(files["convnet"])
    assert arena.total_kib == pytest.approx(arena.head_kib + arena.tail_kib, abs=0.1)
    size = round(1024 * arena.total_kib)
    for given, suffices in ((size + 512, True), (round(0.9 * size), False)):
        command = [sys.executable, "-c", IN_AN_ARENA, str(files["convnet"]), str(given)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode == 0) is suffices, done.stderr


@needs_micro
@pytest.mark.parametrize("file", ["convnet", "float32", "lstm"])
def test_tflite_micro_computes_what_the_reference_kernels_do(file: str, files: dict[str, Path]) -> None:
    found = verification.verify_at_random(files[file], runtime="micro", examples=6)
    assert found.passed
    assert found.difference < 1e-6 or (found.steps is not None and found.steps <= 1.01)


@needs_micro
def test_a_check_for_a_microcontroller_measures_and_compares(files: dict[str, Path]) -> None:
    found = fitness.check(files["convnet"], targets.load("cortex-m4"))
    assert found.runs_as_asked
    assert found.arena is not None
    assert found.activations_kib == found.arena.total_kib
    assert found.verified is not None
    assert found.verified.runtime == "micro"
    # By the graph alone the tensors are counted, not the interpreter's own structures.
    by_rules = fitness.check(files["convnet"], targets.load("cortex-m4"), run=False)
    assert by_rules.arena is None
    assert by_rules.activations_kib < found.activations_kib


@needs_micro
def test_what_tflite_micro_refuses_is_put_down_to_the_operator(files: dict[str, Path]) -> None:
    found = fitness.check(files["dynamic"], targets.load("cortex-m7"))
    assert not found.runs_as_asked
    assert found.first_fallback is not None
    assert found.first_fallback.where == "nowhere"
    assert "TFLite Micro" in found.first_fallback.reason
    with pytest.raises(InterpreterError, match=r"cannot run 'dynamic\.tflite'"):
        micro.measure(files["dynamic"])


@needs_xcore
def test_xcore_compiles_a_file_and_runs_it(files: dict[str, Path], tmp_path: Path) -> None:
    report = compilers.compile_for(targets.load("xmos-xcore-ai"), files["convnet"], tmp_path)
    assert report.output.is_file()
    made = [operator.name for operator in read_graphs(report.output).graphs[0].operators]
    assert any(name.startswith("CUSTOM:XC_conv2d") for name in made)
    assert report.activations_kib is not None
    # Input 768 bytes, first output 512: both are in the arena at once.
    assert report.activations_kib * 1024 >= 768 + 512
    found = fitness.check(files["convnet"], targets.load("xmos-xcore-ai"))
    assert found.verified is not None
    assert found.verified.passed
    assert found.activations_kib == report.activations_kib
    left = [name for name in made if not name.startswith("CUSTOM:")]
    assert sum(one.where == "CPU" for one in found.placements) == len(left)


@needs_xcore
def test_xcore_says_what_it_cannot_compile(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"\x00" * 100)
    with pytest.raises(CompilerError, match=r"could not compile 'broken\.tflite'"):
        xcore.compile(tmp_path / "broken.tflite", tmp_path)


def test_a_runtime_that_refuses_a_file_is_an_error(tmp_path: Path, files: dict[str, Path]) -> None:
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(files["convnet"].read_bytes()[:-1500])
    inputs = [np.zeros((1, 16, 16, 3), np.int8)]
    for runtime in execution.installed():
        with pytest.raises((InterpreterError, CompilerError, ModelFileError), match="cut"):
            execution.execute(cut, inputs, runtime=runtime)


def test_what_a_compiler_left_is_found_by_name_and_size() -> None:
    def graph(*operators: tuple[str, str, tuple[int, ...]]) -> Graph:
        tensors = tuple(
            GraphTensor(tensor, shape, "int8", (), (), False, False, 1) for _, tensor, shape in operators
        )
        made = tuple(GraphOperator(i, name, 1, (), (i,)) for i, (name, _, _) in enumerate(operators))
        return Graph(tensors, made, (), ())

    source = graph(
        ("CONV_2D", "a", (-1, 4)),
        ("CONV_2D", "b", (-1, 4)),
        ("CONV_2D", "c", (-1, 8)),
        ("SOFTMAX", "d", (-1, 8)),
    )
    compiled = graph(("CUSTOM:XC_conv", "K", (1, 4)), ("CONV_2D", "L", (1, 4)), ("SOFTMAX", "M", (1, 8)))
    assert [one.tensor for one in left_on_cpu(source, compiled)] == ["a", "d"]
    # What the compiler names comes first.
    assert [one.tensor for one in left_on_cpu(source, compiled, named={"b"})] == ["b", "d"]
    assert left_on_cpu(source, graph(("CUSTOM:XC_conv", "K", (1, 8)))) == ()


def test_which_runtimes_verify_a_file() -> None:
    here = execution.installed()
    assert set(verification.runtimes_for("int8")) == {"tflite", "litert"} & set(here)
    assert verification.runtimes_for("int4") == ("litert",)
    pi, chip, npu = (targets.load(name) for name in ("raspberry-pi-4", "cortex-m4", "ethos-u55-128"))
    assert set(verification.runtimes_for("int8", [chip])) == {"micro"} & set(here)
    assert set(verification.runtimes_for("int8", [npu])) == {"micro"} & set(here)
    assert set(verification.runtimes_for("float16", [pi, chip])) == {"tflite", "litert"} & set(here)
    assert verification.runtimes_for("dynamic", [chip]) == ()


STAND_IN = """#!/bin/sh
# Stands in for edgetpu_compiler 16: takes its arguments and prints what it printed.
[ "$1 $2" = "-s -o" ] || exit 3
cp "$4" "$3/$(basename "$4" .tflite)_edgetpu.tflite"
cat <<END
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 312 ms.

Input model: $4
On-chip memory used for caching model parameters: 12.50KiB
On-chip memory remaining for caching model parameters: 7.79MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 6

Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 5
Number of operations that will run on CPU: 1

Operator                       Count      Status

CONV_2D                        2          Mapped to Edge TPU
DEPTHWISE_CONV_2D              1          Mapped to Edge TPU
MEAN                           1          Mapped to Edge TPU
FULLY_CONNECTED                1          Mapped to Edge TPU
SOFTMAX                        1          Max 16000 elements supported
See the operation log file for individual operation details.
END
"""


@pytest.fixture
def edgetpu_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "edgetpu_compiler"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


@pytest.mark.usefixtures("edgetpu_compiler")
def test_the_word_of_corals_compiler_counts(files: dict[str, Path]) -> None:
    target = targets.load("coral-edge-tpu")
    assert compilers.missing(target) == ""
    found = fitness.check(files["convnet"], target)
    assert found.weights_kib == pytest.approx(12.5)
    assert found.first_fallback is not None
    assert found.first_fallback.operator.name == "SOFTMAX"
    assert found.first_fallback.reason == "Max 16000 elements supported"
    assert [one.where for one in found.placements].count("Edge TPU") == len(found.placements) - 1


def test_corals_compiler_that_fails_is_an_error(edgetpu_compiler: Path, files: dict[str, Path]) -> None:
    edgetpu_compiler.write_text(
        "#!/bin/sh\necho 'Invalid model: x.tflite'\necho 'Model not quantized'\nexit 1\n"
    )
    found = fitness.check(files["convnet"], targets.load("coral-edge-tpu"))
    assert not found.runs_as_asked
    assert "Model not quantized" in found.failure
    edgetpu_compiler.write_text("#!/bin/sh\nkill -SEGV $$\n")
    assert "crashed (SIGSEGV)" in fitness.check(files["convnet"], targets.load("coral-edge-tpu")).failure


def test_without_a_compiler_the_rules_decide_and_say_so(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = fitness.check(files["convnet"], targets.load("coral-edge-tpu"))
    assert found.runs_as_asked
    assert "edgetpu_compiler" in found.notes[0]
    with pytest.raises(CompilerError, match="edgetpu_compiler on the PATH"):
        edgetpu.compile(files["convnet"], tmp_path)


@pytest.mark.parametrize("maker", ["qualcomm", "mediatek", "google-tensor"])
def test_a_phone_s_npu_is_checked_by_rules_where_its_sdk_is_missing(
    maker: str, files: dict[str, Path]
) -> None:
    target = targets.load(f"android-npu-{maker}")
    assert target.accelerator is not None
    if litert_aot.is_installed(target.accelerator.configuration):
        pytest.skip(f"the SDK of {maker} is installed here")
    package = f"ai-edge-litert-sdk-{maker}"
    assert package in compilers.missing(target)
    found = fitness.check(files["convnet"], target)
    assert found.runs_as_asked
    assert package in found.notes[0]
    with pytest.raises(CompilerError, match=package):
        litert_aot.compile(files["convnet"], target.accelerator.configuration, files["convnet"].parent)


def test_litert_compiles_ahead_of_time_in_a_process_of_its_own(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the SDK, which is missing: LiteRT's own compiler starts, and its refusal is told with its log."""
    if litert_aot.is_installed("qualcomm/SM8650"):
        pytest.skip("the SDK is installed here")
    monkeypatch.setattr(litert_aot, "is_installed", lambda configuration: True)
    with pytest.raises(CompilerError, match="libQnnHtp"):
        litert_aot.compile(files["convnet"], "qualcomm/SM8650", tmp_path)
    with pytest.raises(CompilerError, match="'SM1'"):
        litert_aot.compile(files["convnet"], "qualcomm/SM1", tmp_path)
    with pytest.raises(CompilerError, match="qualcomm, mediatek, google-tensor"):
        litert_aot.sdk("toaster/1")
