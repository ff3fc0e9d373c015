"""A release is there completely or not at all, and its manifest says what is in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import (
    CalibrationError,
    DiskError,
    ReleaseBuildError,
    SignatureError,
    TargetError,
    VerificationError,
)
from hedgerow.hardware import xcore
from hedgerow.hardware.graph import read_graphs
from hedgerow.hardware.inference import Inference
from hedgerow.protocol import manifest as manifests
from hedgerow.protocol.manifest import Preprocessing
from hedgerow.protocol.signatures import SigningKey, verify_manifest
from hedgerow.quantization import Converter, build_release, release_folder

RNG = np.random.default_rng(0)
EXAMPLES = RNG.normal(size=(60, 6, 3)).astype(np.float32)
HELD_OUT = RNG.normal(size=(40, 6, 3)).astype(np.float32)
ANSWERS = RNG.integers(0, 4, size=40)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6, 3)), layers.LSTM(8), layers.Dense(4)], name="tiny")


def test_a_release_has_its_files_and_says_so(
    network: keras.Model, converter: Converter, tmp_path: Path
) -> None:
    key = SigningKey.generate()
    trainable = converter.convert(network, "float32")
    release = build_release(
        tmp_path,
        name="tiny",
        version="1.0.0",
        model=network,
        trainable=trainable,
        calibration=EXAMPLES,
        test=(HELD_OUT, ANSWERS),
        labels=("a", "b", "c", "d"),
        preprocessing=Preprocessing(mean=(1.0,), deviation=(2.0,), description="made up"),
        targets=("ethos-u55-128", "linux-x86-64-tflite"),
        key=key,
        converter=converter,
    )
    assert release.folder == tmp_path / "tiny-1.0.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-1.0.0"]
    assert sorted(path.name for path in release.folder.iterdir()) == [
        "ethos-u55-128.tflite",
        "golden.npz",
        "int8.tflite",
        "manifest.json",
        "trainable.tflite",
    ]
    assert set(release.files) == {"trainable", "int8", "golden", "ethos-u55-128"}
    assert release.files["trainable"].read_bytes() == trainable

    manifest = verify_manifest((release.folder / "manifest.json").read_bytes(), [key.verify_key])
    assert manifest == release.manifest
    for file in manifest.files:
        manifests.check_file(release.folder / file.name, file)
    weights = {weight.path: weight.numpy() for weight in network.weights}
    assert manifest.weights_digest == manifests.weights_digest(weights)
    assert manifest.labels == ("a", "b", "c", "d")
    assert manifest.tools["tensorflow"] and manifest.tools["ethos-u-vela"]

    int8 = manifest.file("int8", target="linux-x86-64-tflite")
    assert int8.stateful
    assert int8.targets == ("linux-x86-64-tflite",)
    assert release.comparison is not None
    assert int8.metrics == release.comparison.files["int8"].metrics
    (tensor,) = int8.signatures["infer"].inputs
    with Inference(release.files["int8"], runtime="litert") as inference:
        spec = inference.spec.inputs["x"]
    assert (tensor.name, tensor.shape, tensor.dtype) == ("x", (1, 6, 3), "int8")
    assert (tensor.scale, tensor.zero_point) == (spec.scale, spec.zero_point)

    with (
        np.load(release.files["golden"]) as golden,
        Inference(release.files["int8"], runtime="litert") as inference,
    ):
        np.testing.assert_array_equal(golden["x"], HELD_OUT[:8])
        (outputs,) = inference.predict(golden["x"])
        assert np.abs(outputs - golden["int8.tflite"]).max() <= 0.02 * np.ptp(golden["int8.tflite"])

    compiled = manifest.file("compiled", target="ethos-u55-128")
    report = release.compiled["ethos-u55-128"]
    assert report.output == release.files["ethos-u55-128"] and report.output.is_file()
    assert compiled.metrics["npu_percent"] == report.accelerated_percent == 100.0


def test_a_compiler_that_is_here_makes_the_target_a_file_beside_the_one_it_can_also_run(
    converter: Converter, tmp_path: Path
) -> None:
    """xcore-opt compiles the ConvNet; it refuses the fused LSTM, and no Edge TPU compiler is installed."""
    convnet = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(16, 3, activation="relu"), layers.Flatten(), layers.Dense(4)]
    )
    images = np.random.default_rng(0).normal(size=(30, 8, 8, 4)).astype(np.float32)
    release = build_release(
        tmp_path,
        name="made",
        version="1.0.0",
        model=convnet,
        calibration=images,
        targets=("xmos-xcore-ai", "linux-x86-64-litert"),
        converter=converter,
    )
    manifest = release.manifest
    assert set(manifest.file("int8").targets) == {"xmos-xcore-ai", "linux-x86-64-litert"}
    if not xcore.is_installed():
        assert not release.compiled
        return
    compiled = manifest.file("compiled", target="xmos-xcore-ai")
    report = release.compiled["xmos-xcore-ai"]
    assert compiled.metrics == {
        "sram_kib": report.activations_kib,
        "flash_kib": report.weights_kib,
    }
    operators = [one.name for one in read_graphs(release.files["xmos-xcore-ai"]).graphs[0].operators]
    assert any(name.startswith("CUSTOM:XC_conv2d") for name in operators)


def test_a_target_whose_compiler_refuses_the_file_has_the_file(
    network: keras.Model, converter: Converter, tmp_path: Path
) -> None:
    release = build_release(
        tmp_path,
        name="tiny",
        version="1.0.0",
        model=network,
        calibration=EXAMPLES,
        targets=("xmos-xcore-ai", "coral-edge-tpu"),
        converter=converter,
    )
    assert not release.compiled
    assert sorted(path.name for path in release.folder.iterdir()) == [
        "golden.npz", "int8.tflite", "manifest.json",
    ]  # fmt: skip


def test_versions_only_go_up(network: keras.Model, converter: Converter, tmp_path: Path) -> None:
    def build(version: str) -> Path:
        return build_release(
            tmp_path,
            name="tiny",
            version=version,
            model=network,
            recipes=("float32",),
            converter=converter,
        ).folder

    first = build("1.9.0")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    for version in ("1.9.0", "1.8.9", "0.10.0"):
        with pytest.raises(ReleaseBuildError, match=r"above 1\.9\.0"):
            build(version)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    second = build("1.10.0")
    # The same model gives the same bytes; only the version in the manifest is another.
    assert (second / "float32.tflite").read_bytes() == before["float32.tflite"]
    assert json.loads((second / "manifest.json").read_bytes())["version"] == "1.10.0"
    with pytest.raises(SignatureError, match="without"):
        verify_manifest((second / "manifest.json").read_bytes(), [SigningKey.generate().verify_key])


def test_nothing_is_left_of_a_release_that_failed(
    network: keras.Model, converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(**changes: object) -> None:
        arguments: dict[str, object] = {
            "name": "tiny",
            "version": "1.0.0",
            "model": network,
            "calibration": EXAMPLES,
            "test": (HELD_OUT, ANSWERS),
            "converter": converter,
        }
        build_release(tmp_path / "releases", **(arguments | changes))  # type: ignore[arg-type]

    with pytest.raises(CalibrationError):
        build(calibration=None)
    with pytest.raises(CalibrationError, match="shapes"):
        build(test=(HELD_OUT[:, :3], ANSWERS))
    with pytest.raises(TargetError, match="ethos-u55-128"):
        build(targets=("toaster",))
    with pytest.raises(ReleaseBuildError, match="3 that are in both"):
        build(test=(np.concatenate([HELD_OUT, EXAMPLES[:3]]), np.zeros(43, int)))
    assert not list(tmp_path.glob("releases/*"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        build(recipes=("float32",))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(recipes=("float32",))
    assert not list(tmp_path.glob("releases/*"))


def test_a_folder_that_cannot_be_written_is_an_error(
    network: keras.Model, converter: Converter, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="Cannot write"):
        build_release(
            tmp_path / "file", name="tiny", version="1.0.0", model=network, recipes=(), converter=converter
        )


KILLED = """
import os, signal, sys
from hedgerow.quantization import release, release_folder
def kill(path, content, write=release_folder.write):
    write(path, content)
    if path.name == "manifest.json":
        os.kill(os.getpid(), signal.SIGKILL)
release_folder.write = kill
import keras
network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
release.build_release(sys.argv[1], name="tiny", version="1.0.0", model=network, recipes=("float32",))
"""


@pytest.mark.slow
def test_a_builder_that_is_killed_leaves_no_release(
    network: keras.Model, converter: Converter, tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=300)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert not (tmp_path / "tiny-1.0.0").exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".building-") and (left / "manifest.json").is_file()
    build_release(
        tmp_path, name="tiny", version="1.0.0", model=network, recipes=("float32",), converter=converter
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1.0.0"]


def test_what_another_process_is_building_is_left_alone(tmp_path: Path) -> None:
    with release_folder.aside(tmp_path / "a-1.0.0") as first, release_folder.aside(tmp_path / "b-1.0.0"):
        assert first.is_dir() and len(list(tmp_path.glob(".building-*"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.0.0", "b-1.0.0"]


FULL = """
import resource, signal, sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
import keras
from hedgerow.errors import DiskError
from hedgerow.quantization import build_release
network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
float32 = {"float32": bytes(int(sys.argv[2]))}
names = {"name": "tiny", "version": "1.0.0", "recipes": ("float32",)}
try:
    build_release(sys.argv[1], model=network, converted=float32, **names)
except DiskError as error:
    print(error.exit_code, error)
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.slow
def test_a_file_that_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    # Real refusals of the system, without a disk of its own: a limit on the size of files.
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), "2000000"], capture_output=True, text=True, timeout=300
    )
    lines = done.stdout.splitlines()
    assert lines[-2].startswith("95 Cannot write the release 'tiny-1.0.0': File too large."), done.stderr[
        -2000:
    ]
    assert lines[-1] == "[]"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts disks of so many KiB; only root can."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only root can mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_nothing_at_whatever_file_it_is_met(
    network: keras.Model, converter: Converter, small_disk: Callable[[int], Path]
) -> None:
    for kib in (4, 8, 12, 20):
        folder = small_disk(kib)
        with pytest.raises(DiskError, match="No space left"):
            build_release(
                folder,
                name="tiny",
                version="1.0.0",
                model=network,
                calibration=EXAMPLES,
                test=(HELD_OUT, ANSWERS),
                recipes=("float32", "int8"),
                converter=converter,
            )
        assert not list(folder.iterdir())


@pytest.mark.slow
def test_the_same_release_has_the_same_bytes(
    network: keras.Model, converter: Converter, tmp_path: Path
) -> None:
    def build(folder: Path) -> dict[str, bytes]:
        release = build_release(
            folder,
            name="tiny",
            version="1.0.0",
            model=network,
            calibration=EXAMPLES,
            test=(HELD_OUT, ANSWERS),
            recipes=("int8", "int8-ranges", "mixed", "int16x8", "float16"),
            targets=("ethos-u55-128",),
            converter=converter,
        )
        return {path.name: path.read_bytes() for path in release.folder.iterdir()}

    first = build(tmp_path / "one")
    assert build(tmp_path / "two") == first and len(first) == 8
    tools = json.loads(first["manifest.json"])["tools"]
    assert {"hedgerow", "tensorflow", "keras", "numpy", "ai-edge-quantizer", "ethos-u-vela"} <= set(tools)


def test_what_is_found_before_a_release_has_its_name_stops_it(
    network: keras.Model, converter: Converter, tmp_path: Path
) -> None:
    def refuse(destination: Path, files: Mapping[str, Path], compiled: Mapping[str, Path]) -> None:
        assert not destination.exists() and files["float32"].is_file() and not compiled
        raise VerificationError("No.")

    with pytest.raises(VerificationError):
        build_release(
            tmp_path,
            name="tiny",
            version="1.0.0",
            model=network,
            recipes=("float32",),
            converter=converter,
            on_built=refuse,
        )
    assert not list(tmp_path.iterdir())


def test_the_digest_names_the_weights_not_the_file(network: keras.Model) -> None:
    weights = {weight.path: weight.numpy() for weight in network.weights}
    first = manifests.weights_digest(weights)
    assert len(first) == len(hashlib.sha256().hexdigest())
    changed = {name: value + 1e-7 for name, value in weights.items()}
    assert manifests.weights_digest(changed) != first
