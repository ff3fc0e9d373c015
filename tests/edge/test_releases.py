"""Releases on the device: what is refused, what serves, and what takes over when it fails."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.edge import Device
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.device import LOOK_SECONDS
from hedgerow.edge.release import ReleaseStore
from hedgerow.edge.release.installer import RETRY_SECONDS, Installer
from hedgerow.edge.release.store import TRIALS_AT_MOST
from hedgerow.edge.session.events import ReleaseInstalled, ReleaseJudged, ReleaseOffered, ReleaseRefused
from hedgerow.errors import (
    HedgerowError,
    ManifestError,
    NoReleaseError,
    RefusedReleaseError,
    SignatureError,
    TensorError,
)
from hedgerow.protocol.blobs import BlobStore
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.messages import DeviceState
from hedgerow.protocol.signatures import SigningKey, sign_manifest

Fixture = Any
KEY = SigningKey.generate()


class Publisher:
    """Makes signed releases of the two inference files."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder = folder
        self.model = model
        folder.mkdir()

    def file(self, name: str, data: bytes, kind: Any, **fields: Any) -> ModelFile:
        (self.folder / name).write_bytes(data)
        return ModelFile(name, kind, len(data), hashlib.sha256(data).hexdigest(), **fields)

    def release(
        self, version: str, which: str = "first", *, key: SigningKey = KEY, golden: str = "", **changes: Any
    ) -> tuple[bytes, dict[str, Path]]:
        parts = self.model.inference
        name = f"model-{version}.tflite"
        vectors = self.folder / f"golden-{version}.npz"
        np.savez(vectors, x=parts["x"], **{name: parts[f"{golden or which}_output"]})
        files = (
            self.file(name, parts[which].tobytes(), "float32"),
            self.file(vectors.name, vectors.read_bytes(), "golden"),
        )
        fields = {"name": "shapes", "version": version, "weights_digest": "0" * 64, "files": files} | changes
        return sign_manifest(Manifest(**fields), key), {file.name: self.folder / file.name for file in files}


@pytest.fixture
def publisher(tmp_path: Path, model: Fixture) -> Publisher:
    return Publisher(tmp_path / "published", model)


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "state" / "releases", (KEY.verify_key,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A device's folder."""
    KEY.verify_key.write(tmp_path / "key.pem")
    config = AgentConfig(
        device="d1", fleet="farm", broker="mqtt://b", folder="state", samples="samples", release_key="key.pem"
    )
    config.write(tmp_path / "agent.toml")
    return tmp_path


def climbing(signed: bytes) -> bytes:
    """The manifest with a file name that leads out of the folder, signed with the right key."""
    fields = msgspec.json.decode(signed)
    fields["files"][0]["name"] = "../../model.tflite"
    signature = fields.pop("signature")
    value = KEY.sign(msgspec.json.encode(fields, order="sorted"))
    fields["signature"] = signature | {"value": base64.b64encode(value).decode()}
    return msgspec.json.encode(fields)


def answer(publisher: Publisher, which: str) -> np.ndarray:
    return publisher.model.inference[f"{which}_output"]


def test_a_device_without_a_release_says_so(folder: Path) -> None:
    with Device(folder) as device, pytest.raises(NoReleaseError):
        device.predict(np.zeros((1, 8, 8, 1), np.float32))


def test_what_is_no_example_is_refused_and_the_next_one_answered(
    folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    store.install(*publisher.release("1.0.0"))
    x = publisher.model.inference["x"]
    with Device(folder) as device:
        for wrong, words in (
            (x[0], r"\(n, 8, 8, 1\).*received \[\(8, 8, 1\)\]"),
            (x[:0], r"received \[\(0, 8, 8, 1\)\]"),
            (np.full((1, 8, 8, 1), "three"), "real numbers.*U5"),
            (np.full((1, 8, 8, 1), None), "real numbers.*object"),
            (x[:1].astype(np.complex64), "real numbers.*complex64"),
        ):
            with pytest.raises(TensorError, match=words):
                device.predict(wrong)
        for one in (x[:1].astype(np.float64), x[:1].astype(">f4"), x[:1].tolist(), np.asfortranarray(x[:1])):
            np.testing.assert_allclose(device.predict(one), answer(publisher, "first")[:1], atol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_state_ends_no_running_program(
    folder: Path, store: ReleaseStore, publisher: Publisher, damage: str
) -> None:
    store.install(*publisher.release("1.0.0"))
    x, path = publisher.model.inference["x"], store.state_file.path
    with Device(folder) as device:
        device.predict(x)
        if damage == "cut":
            os.truncate(path, 20)
        else:
            path.unlink()
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), answer(publisher, "first"), atol=1e-5)
        store.install(*publisher.release("1.1.0", "second"))
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), answer(publisher, "second"), atol=1e-5)


def test_the_first_release_leaves_none_to_fall_back_to(store: ReleaseStore, publisher: Publisher) -> None:
    installed = store.install(*publisher.release("1.0.0"))
    assert store.state().previous is None
    assert store.fall_back(installed, "it failed") is None
    assert store.state().current is None


def test_what_serves_is_found_again_without_current_json(store: ReleaseStore, publisher: Publisher) -> None:
    for version in ("1.0.0", "1.1.0"):
        store.install(*publisher.release(version))
    store.state_file.path.unlink()
    store.install(*publisher.release("1.2.0"))
    state = store.state()
    assert state.current is not None
    assert state.previous is not None
    assert (state.current.release, state.previous.release) == ("shapes-1.2.0", "shapes-1.1.0")


def test_a_new_release_serves_after_the_next_look(
    folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    x = publisher.model.inference["x"]
    store.install(*publisher.release("1.0.0", "first"))
    with Device(folder) as device:
        np.testing.assert_allclose(device.predict(x), answer(publisher, "first"), atol=1e-5)
        store.install(*publisher.release("1.1.0", "second"))
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), answer(publisher, "second"), atol=1e-5)
        assert device.release == "shapes-1.1.0"
    state = store.state()
    assert state.current is not None
    assert state.previous is not None
    assert (state.current.proven, state.current.trials, state.previous.release) == (True, 1, "shapes-1.0.0")
    store.install(*publisher.release("1.2.0", "first"))
    assert sorted(path.name for path in store.state_file.path.parent.glob("shapes*")) == [
        "shapes-1.1.0",
        "shapes-1.2.0",
    ]


def vectors(publisher: Publisher) -> ModelFile:
    """The golden vectors of a release that is not signed yet."""
    signed, _ = publisher.release("1.0.1")
    return msgspec.convert(msgspec.json.decode(signed)["files"][1], ModelFile)


def no_golden(publisher: Publisher) -> tuple[bytes, dict[str, Path]]:
    return publisher.release("1.0.1", files=(publisher.file("alone.tflite", b"x" * 100, "float32"),))


def for_another_chip(publisher: Publisher) -> tuple[bytes, dict[str, Path]]:
    compiled = publisher.file("chip.tflite", b"x", "compiled", targets=("other-chip",))
    return publisher.release("1.0.1", files=(compiled, vectors(publisher)))


def bomb(publisher: Publisher) -> tuple[bytes, dict[str, Path]]:
    huge = ModelFile("huge.tflite", "float32", 1 << 40, "0" * 64)
    return publisher.release("1.0.1", files=(huge, vectors(publisher)))


def changed(publisher: Publisher) -> tuple[bytes, dict[str, Path]]:
    signed, sources = publisher.release("1.0.1")
    return signed.replace(b'"shapes"', b'"shades"'), sources


_REFUSED: dict[str, tuple[Callable[[Publisher], tuple[bytes, dict[str, Path]]], type[HedgerowError], str]] = {
    "signed by another key": (
        lambda publisher: publisher.release("1.0.1", key=SigningKey.generate()), SignatureError, "key"
    ),
    "changed after signing": (changed, SignatureError, "sign"),
    "no manifest at all": (lambda publisher: (b"no manifest", {}), HedgerowError, "manifest"),
    "the same version": (lambda publisher: publisher.release("1.0.0"), RefusedReleaseError, "only go up"),
    "a lower version": (lambda publisher: publisher.release("0.9.9"), RefusedReleaseError, "only go up"),
    "for a newer agent": (
        lambda publisher: publisher.release("1.0.1", minimum_agent="99.0.0"), RefusedReleaseError, "99.0.0"
    ),
    "for another chip": (for_another_chip, ManifestError, "only .*compiled"),
    "without golden vectors": (no_golden, ManifestError, "golden"),
    "a bomb of a size": (bomb, RefusedReleaseError, "at most 268435456 bytes"),
    "a path that climbs out": (
        lambda publisher: (climbing(publisher.release("1.0.1")[0]), {}), ManifestError, "plain file name"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(_REFUSED))
def test_what_must_not_run_is_refused_and_the_old_release_serves_on(
    what: str, folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    make, error, words = _REFUSED[what]
    store.install(*publisher.release("1.0.0"))
    before, files = store.state(), sorted(folder.rglob("*.tflite"))
    x = publisher.model.inference["x"]
    with Device(folder) as device:
        device.predict(x)
        with pytest.raises(error, match=words):
            store.install(*make(publisher))
        np.testing.assert_allclose(device.predict(x), answer(publisher, "first"), atol=1e-5)
    after = store.state()
    assert (after.current and after.current.release, after.refused) == ("shapes-1.0.0", before.refused)
    left = {path for path in folder.rglob("*.tflite") if "published" not in path.parts}
    assert left == {path for path in files if "published" not in path.parts}


def test_a_state_that_cannot_be_read_stops_no_inference(
    folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    store.install(*publisher.release("1.0.0"))
    x, path = publisher.model.inference["x"], store.state_file.path
    with Device(folder) as device:
        device.predict(x)
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), answer(publisher, "first"), atol=1e-5)
        with Device(folder) as another, pytest.raises(NoReleaseError, match="directory"):
            another.predict(x)
        path.rmdir()
        path.write_bytes(content)
        store.install(*publisher.release("1.1.0", "second"))
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), answer(publisher, "second"), atol=1e-5)


def test_a_release_that_the_disk_did_not_take_is_reported_and_tried_again(
    folder: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AgentConfig.load(folder / "agent.toml")
    blobs = BlobStore(folder / "state" / "blobs")
    events: SimpleQueue[Any] = SimpleQueue()
    installer = Installer(config, blobs, events.put)
    signed, sources = publisher.release("1.0.0")
    for path in sources.values():
        blobs.put(path.read_bytes())
    in_the_way = folder / "state" / "releases" / "shapes-1.0.0"
    in_the_way.write_bytes(b"")
    installer.install(signed)
    refused = events.get(timeout=60)
    assert isinstance(refused, ReleaseRefused)
    assert "the disk failed" in str(installer.report()["release_refused"])
    installer.watch()
    assert events.empty()
    in_the_way.unlink()
    later = time.monotonic() + RETRY_SECONDS
    monkeypatch.setattr("hedgerow.edge.release.installer.time.monotonic", lambda: later)
    installer.watch()
    assert events.get(timeout=1) == ReleaseOffered(signed)
    assert isinstance(installer.judge(signed), ReleaseJudged)
    installer.install(signed)
    assert events.get(timeout=60) == ReleaseInstalled(signed, "shapes-1.0.0")
    assert (installer.report()["release"], installer.report()["release_refused"]) == ("shapes-1.0.0", "")
    installer.watch()
    assert events.empty()


@pytest.mark.parametrize("damage", ["digest", "golden", "garbage"])
def test_a_release_that_fails_its_test_is_refused_for_good(
    damage: str, store: ReleaseStore, publisher: Publisher
) -> None:
    store.install(*publisher.release("1.0.0"))
    signed, sources = publisher.release("1.1.0", "second", golden="first" if damage == "golden" else "")
    if damage == "digest":
        sources["model-1.1.0.tflite"].write_bytes(publisher.model.inference["first"].tobytes())
    if damage == "garbage":
        garbage = publisher.file("model-1.1.0.tflite", b"no model at all" * 99, "float32")
        golden = msgspec.convert(msgspec.json.decode(signed)["files"][1], ModelFile)
        signed, _ = publisher.release("1.1.0", files=(garbage, golden))
        sources["model-1.1.0.tflite"].write_bytes(b"no model at all" * 99)
    with pytest.raises(HedgerowError):
        store.install(signed, sources)
    state = store.state()
    assert state.current is not None
    assert state.current.release == "shapes-1.0.0"
    assert list(state.refused) == ["shapes-1.1.0"]
    with pytest.raises(RefusedReleaseError, match="refused before"):
        store.install(*publisher.release("1.1.0"))
    store.install(*publisher.release("1.1.1"))


def test_a_file_that_the_disk_changed_makes_way_for_the_release_before(
    folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    x = publisher.model.inference["x"]
    store.install(*publisher.release("1.0.0", "first"))
    installed = store.install(*publisher.release("1.1.0", "second"))
    store.path(installed).write_bytes(b"rotten")
    with Device(folder) as device:
        np.testing.assert_allclose(device.predict(x), answer(publisher, "first"), atol=1e-5)
    assert "shapes-1.1.0" in store.state().refused


def test_a_release_that_takes_programs_down_is_left_after_three_of_them(
    folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    x = publisher.model.inference["x"]
    store.install(*publisher.release("1.0.0", "first"))
    with Device(folder) as device:
        device.predict(x)
    installed = store.install(*publisher.release("1.1.0", "second"))
    for _ in range(TRIALS_AT_MOST):
        assert store.begin_trial(installed) == installed
    with Device(folder) as device:
        np.testing.assert_allclose(device.predict(x), answer(publisher, "first"), atol=1e-5)
        assert device.release == "shapes-1.0.0"


def test_swaps_under_running_inference_never_give_a_wrong_answer(
    folder: Path, store: ReleaseStore, publisher: Publisher
) -> None:
    x = publisher.model.inference["x"]
    first, second = answer(publisher, "first"), answer(publisher, "second")
    store.install(*publisher.release("1.0.0", "first"))
    wrong: list[float] = []
    calls = 0
    ended = threading.Event()

    def predict() -> None:
        nonlocal calls
        with Device(folder) as device:
            while not ended.is_set():
                output = device.predict(x)
                calls += 1
                distance = min(float(np.abs(output - one).max()) for one in (first, second))
                if distance > 1e-5:
                    wrong.append(distance)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    for minor in range(1, 4):
        store.install(*publisher.release(f"1.{minor}.0", "second" if minor % 2 else "first"))
        time.sleep(0.1)
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert calls > 10


def test_samples_that_a_program_adds_are_the_agent_s(folder: Path) -> None:
    script = "import sys; from hedgerow.edge import Device; Device(sys.argv[1]).add_sample([1.5, 2.5], 1)"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=60)
    with Device(folder) as device:
        device.add_sample([3.5, 4.5], 0)
        with pytest.raises(HedgerowError, match="shape"):
            device.add_sample([1.0], 0)
        device.forget_samples()
        device.add_sample([1.0], 0)


def test_the_agent_follows_its_channel_and_reports_what_it_refuses(
    coordinator: Fixture, make_agent: Fixture, publisher: Publisher, tmp_path: Path
) -> None:
    KEY.verify_key.write(tmp_path / "key.pem")
    agent = make_agent(channel="stable", release_key=str(tmp_path / "key.pem"))
    born = coordinator.wait(DeviceState, online=True)
    assert born.capabilities["release"] == ""

    def publish(version: str, which: str, golden: str = "") -> None:
        signed, sources = publisher.release(version, which, golden=golden)
        for path in sources.values():
            coordinator.offer(path.read_bytes())
        coordinator.release("stable", signed)

    publish("1.0.0", "first")
    while coordinator.wait(DeviceState).capabilities["release"] != "shapes-1.0.0":
        pass
    agent.kill()
    publish("1.1.0", "second")
    agent.start()
    while coordinator.wait(DeviceState).capabilities["release"] != "shapes-1.1.0":
        pass
    publish("1.2.0", "first", golden="second")
    while not (state := coordinator.wait(DeviceState)).capabilities["release_refused"]:
        pass
    assert state.capabilities["release_refused"].startswith("shapes-1.2.0: The self-test")
    assert state.capabilities["release"] == "shapes-1.1.0"
    assert state.capabilities["rss_mib"] < 60
    with Device(agent.path) as device:
        output = device.predict(publisher.model.inference["x"])
    np.testing.assert_allclose(output, answer(publisher, "second"), atol=1e-5)
