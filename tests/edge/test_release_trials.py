"""What a release has to prove on the device: golden vectors, its accelerator, the device's own samples."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.edge import Device
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.release import ReleaseStore
from hedgerow.errors import RefusedReleaseError
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.messages import DeviceState
from hedgerow.protocol.signatures import SigningKey, sign_manifest

Fixture = Any
KEY = SigningKey.generate()
FIELDS: dict[str, Any] = {
    "device": "d1", "fleet": "farm", "broker": "mqtt://b", "folder": "state", "samples": "samples",
    "release_key": "key.pem",
}  # fmt: skip


class Releases:
    """Signed releases of the two inference files; `first` and `second` answer differently."""

    def __init__(self, folder: Path, model: Fixture) -> None:
        self.folder = folder
        self.inference: dict[str, np.ndarray] = model.inference
        folder.mkdir()

    def file(self, name: str, data: bytes, kind: Any, **fields: Any) -> ModelFile:
        (self.folder / name).write_bytes(data)
        return ModelFile(name, kind, len(data), hashlib.sha256(data).hexdigest(), **fields)

    def build(
        self, version: str, which: str = "first", *, golden: bytes | None = None, **fields: Any
    ) -> tuple[bytes, dict[str, Path]]:
        name = f"float32-{version}.tflite"
        model = self.file(name, self.inference[which].tobytes(), "float32")
        if golden is None:
            path = self.folder / "vectors.npz"
            np.savez(path, x=self.inference["x"], **{name: self.inference[f"{which}_output"]})
            golden = path.read_bytes()
        files = (model, self.file(f"golden-{version}.npz", golden, "golden"))
        files = fields.pop("files", lambda files: files)(files)
        manifest = Manifest(name="shapes", version=version, weights_digest="0" * 64, files=files, **fields)
        return sign_manifest(manifest, KEY), {file.name: self.folder / file.name for file in files}

    def accuracy(self, which: str) -> float:
        """Of a file on the samples that `samples` writes, as Keras answers."""
        right = self.inference[f"{which}_output"].argmax(1) == self.inference["first_output"].argmax(1)
        return float(right.mean())


@pytest.fixture
def releases(tmp_path: Path, model: Fixture) -> Releases:
    return Releases(tmp_path / "published", model)


def device_folder(folder: Path, **fields: Any) -> tuple[Path, ReleaseStore]:
    KEY.verify_key.write(folder / "key.pem")
    AgentConfig(**(FIELDS | fields)).write(folder / "agent.toml")
    return folder, ReleaseStore.of_device(AgentConfig.load(folder / "agent.toml"))


def samples(folder: Path, releases: Releases) -> None:
    """The device's own test samples, as the first file answers them."""
    (folder / "samples").mkdir()
    y = releases.inference["first_output"].argmax(1)
    np.savez(folder / "samples" / "test.npz", x=releases.inference["x"], y=y)


@pytest.mark.parametrize("where", ["manifest", "config"])
def test_a_release_that_is_bad_for_this_device_is_refused(
    where: str, tmp_path: Path, releases: Releases
) -> None:
    floor = (releases.accuracy("second") + 1.0) / 2
    assert releases.accuracy("second") < 0.9
    fields = {"accuracy_floor": floor} if where == "config" else {}
    folder, store = device_folder(tmp_path, **fields)
    samples(folder, releases)
    fields = {"accuracy_floor": floor} if where == "manifest" else {}
    assert store.install(*releases.build("1.0.0", "first", **fields)).accuracy == 1.0
    with pytest.raises(RefusedReleaseError, match="own 20 test samples, received"):
        store.install(*releases.build("1.1.0", "second", **fields))
    with Device(folder) as device:
        assert device.release == "shapes-1.0.0"
    assert "shapes-1.1.0" in store.state().refused


def test_a_release_that_turns_out_bad_makes_way_for_the_one_before(
    tmp_path: Path, releases: Releases
) -> None:
    folder, store = device_folder(tmp_path)
    store.install(*releases.build("1.0.0", "first"))
    installed = store.install(*releases.build("1.1.0", "second", accuracy_floor=0.95))
    assert installed.accuracy is None
    assert store.recheck().current == installed
    samples(folder, releases)
    state = store.recheck()
    assert state.current is not None
    assert state.current.release == "shapes-1.0.0"
    assert "own 20 test samples" in state.refused["shapes-1.1.0"]
    # Nothing is left to fall back to: a bad answer is better than none.
    assert store.recheck().current is not None


def test_a_few_samples_say_nothing(tmp_path: Path, releases: Releases) -> None:
    folder, store = device_folder(tmp_path, accuracy_samples=21, accuracy_floor=1.0)
    samples(folder, releases)
    assert store.install(*releases.build("1.0.0", "second")).accuracy is None


def test_golden_vectors_that_unfold_to_a_bomb_are_refused(tmp_path: Path, releases: Releases) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 8, 8, 1), np.float32))
        np.lib.format.write_array_header_1_0(member, header | {"shape": (1 << 20, 8, 8, 1)})
        for _ in range(96):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    _, store = device_folder(tmp_path)
    with pytest.raises(RefusedReleaseError, match="unfold to"):
        store.install(*releases.build("1.0.0", golden=path.read_bytes()))


def test_a_missing_golden_vector_is_refused(tmp_path: Path, releases: Releases) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x=releases.inference["x"], other=releases.inference["first_output"])
    _, store = device_folder(tmp_path)
    with pytest.raises(RefusedReleaseError, match="no golden vectors"):
        store.install(*releases.build("1.0.0", golden=path.read_bytes()))


_DELEGATE = """
#include <stddef.h>
#include <stdint.h>
typedef struct Delegate {
    void* data;
    int (*prepare)(void*, struct Delegate*);
    void *from, *to, *release;
    int64_t flags;
    void* builder;
} Delegate;
static int prepare(void* context, Delegate* delegate) { BODY }
static Delegate delegate = {0, prepare, 0, 0, 0, 1, 0};
Delegate* tflite_plugin_create_delegate(char** k, char** v, size_t n, void (*say)(const char*)) {
    return &delegate;
}
void tflite_plugin_destroy_delegate(Delegate* delegate) {}
"""


def compile_delegate(folder: Path, body: str = "return 0;") -> Path:
    """A real external delegate that takes no operator, or does what `body` says when a model is prepared."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = folder / "delegate.c", folder / "delegate.so"
    source.write_text(_DELEGATE.replace("BODY", body))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def compiled_too(releases: Releases, target: str = "coral-edge-tpu") -> Any:
    """Adds a file for the accelerator: here the same model, so that the same golden vectors hold."""
    data = releases.inference["first"].tobytes()
    return lambda files: (*files, releases.file("chip.tflite", data, "compiled", targets=(target,)))


def test_an_accelerator_runs_its_own_file_and_the_cpu_takes_over_when_it_goes(
    tmp_path: Path, releases: Releases
) -> None:
    library = compile_delegate(tmp_path)
    folder, store = device_folder(tmp_path, target="coral-edge-tpu", delegate=str(library))
    installed = store.install(*releases.build("1.0.0", files=compiled_too(releases)))
    assert installed.cpu_because == ""
    assert (installed.model.name, installed.accelerator) == ("chip.tflite", "coral-edge-tpu")
    x, expected = releases.inference["x"], releases.inference["first_output"]
    # A process keeps a library that it has loaded; the one that loses it is a new one.
    script = "import sys, numpy; from hedgerow.edge import Device as D; D('.').predict(numpy.load('x.npy'))"
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=60, cwd=tmp_path)
    current = store.state().current
    assert current is not None
    assert (current.proven, current.accelerator) == (True, "coral-edge-tpu")
    library.unlink()
    with Device(folder) as device:
        np.testing.assert_allclose(device.predict(x), expected, atol=1e-5)
    current = store.state().current
    assert current is not None
    assert (current.model.name, current.accelerator) == ("float32-1.0.0.tflite", "")
    assert "delegate.so" in current.cpu_because


@pytest.mark.parametrize(
    ("body", "reason"),
    [("return 1;", "failed"), ("*(volatile int*)0 = 1; return 0;", "SIGSEGV"), (None, "delegate")],
)
def test_an_accelerator_that_fails_its_test_leaves_the_release_to_the_cpu(
    body: str | None, reason: str, tmp_path: Path, releases: Releases
) -> None:
    library = compile_delegate(tmp_path, body) if body else tmp_path / "none.so"
    folder, store = device_folder(tmp_path, target="coral-edge-tpu", delegate=str(library))
    installed = store.install(*releases.build("1.0.0", files=compiled_too(releases)))
    assert (installed.model.name, installed.accelerator) == ("float32-1.0.0.tflite", "")
    assert reason in installed.cpu_because
    with Device(folder) as device:
        output = device.predict(releases.inference["x"])
    np.testing.assert_allclose(output, releases.inference["first_output"], atol=1e-5)


def test_a_target_that_no_delegate_is_known_for_says_so(tmp_path: Path, releases: Releases) -> None:
    _, store = device_folder(tmp_path, target="android-npu-mediatek")
    installed = store.install(*releases.build("1.0.0"))
    assert "No delegate is known for android-npu-mediatek" in installed.cpu_because
    _, store = device_folder(tmp_path, target="raspberry-pi-4")
    assert store.install(*releases.build("1.1.0")).cpu_because == ""


@pytest.mark.slow
def test_the_state_topic_says_what_runs_where_and_what_was_refused(
    coordinator: Fixture, make_agent: Fixture, releases: Releases, tmp_path: Path
) -> None:
    KEY.verify_key.write(tmp_path / "fleet.pem")
    make_agent(
        channel="stable", release_key=str(tmp_path / "fleet.pem"), target="coral-edge-tpu",
        delegate=str(tmp_path / "none.so"), blob_limit_mib=4,
    )  # fmt: skip
    coordinator.wait(DeviceState, online=True)

    def publish(signed: bytes, sources: dict[str, Path]) -> None:
        for path in sources.values():
            coordinator.offer(path.read_bytes())
        coordinator.release("stable", signed)

    def heard(key: str, value: str) -> dict[str, Any]:
        until = time.monotonic() + 40.0
        while time.monotonic() < until:
            said = coordinator.wait(DeviceState, seconds=40.0).capabilities
            if value in str(said.get(key, "")):
                return said  # type: ignore[no-any-return]
        raise AssertionError(f"{key} never was {value}")

    signed, sources = releases.build("1.0.0")
    publish(signed, sources)
    said = heard("release", "shapes-1.0.0")
    assert (said["accelerator"], said["release_refused"]) == ("", "")
    assert "none.so" in said["cpu_because"]
    fields = msgspec.json.decode(signed)
    publish(msgspec.json.encode(fields | {"version": "1.0.1"}), sources)
    assert heard("release_refused", "signature is wrong")["release"] == "shapes-1.0.0"
    publish(*releases.build("0.9.0"))
    assert heard("release_refused", "versions only go up")["release"] == "shapes-1.0.0"
    huge = ModelFile("huge.tflite", "float32", 1 << 40, "0" * 64)
    publish(releases.build("1.2.0", files=lambda files: (huge, *files[1:]))[0], {})
    assert heard("release_refused", "received a release of")["release"] == "shapes-1.0.0"
    signed, _ = releases.build("1.3.0", files=lambda files: files[:1])
    publish(signed, {})
    assert heard("release_refused", "golden")["release"] == "shapes-1.0.0"
    publish(*releases.build("1.4.0", "second"))
    assert heard("release", "shapes-1.4.0")["release_refused"] == ""
