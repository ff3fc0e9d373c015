"""A release is there completely or not at all, and its manifest says what is in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.errors import CalibrationError, ReleaseBuildError, SignatureError, TargetError
from hedgerow.hardware.inference import Inference
from hedgerow.protocol import manifest as manifests
from hedgerow.protocol.manifest import Preprocessing
from hedgerow.protocol.signatures import SigningKey, verify_manifest
from hedgerow.quantization import Converter, build_release

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
    assert compiled.metrics["npu_percent"] == report.npu_percent == 100.0


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
    with pytest.raises(ReleaseBuildError, match="No space left"):
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
    with pytest.raises(ReleaseBuildError, match="Cannot write"):
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
def test_a_builder_that_is_killed_leaves_no_release(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=300)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert not (tmp_path / "tiny-1.0.0").exists()
    assert all(path.name.startswith(".building-") for path in tmp_path.iterdir())


def test_the_digest_names_the_weights_not_the_file(network: keras.Model) -> None:
    weights = {weight.path: weight.numpy() for weight in network.weights}
    first = manifests.weights_digest(weights)
    assert len(first) == len(hashlib.sha256().hexdigest())
    changed = {name: value + 1e-7 for name, value in weights.items()}
    assert manifests.weights_digest(changed) != first
