"""A disk that is full, read-only, or lies: it is said, inference goes on, nothing acknowledged is lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.edge import Device
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.release import ReleaseStore
from hedgerow.edge.sample_store import SampleStore
from hedgerow.errors import SamplesError
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.messages import DeviceState, Failed, Task, Update
from hedgerow.protocol.signatures import SigningKey, sign_manifest

Fixture = Any
KEY = SigningKey.generate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Takes every byte that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return filler


@pytest.fixture
def device_folder(disk: Path, tmp_path: Path, model: Fixture) -> Path:
    """A device on the small disk, with a release that nobody has used yet."""
    KEY.verify_key.write(disk / "key.pem")
    AgentConfig(
        device="d1", fleet="farm", broker="mqtt://b", folder="state", samples="samples", release_key="key.pem"
    ).write(disk / "agent.toml")
    parts, sources = model.inference, tmp_path / "published"
    sources.mkdir()
    (sources / "m.tflite").write_bytes(parts["first"].tobytes())
    np.savez(sources / "golden.npz", x=parts["x"], **{"m.tflite": parts["first_output"]})
    files = tuple(
        ModelFile(name, kind, len(data), hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]
        for name, kind in (("m.tflite", "float32"), ("golden.npz", "golden"))
        for data in [(sources / name).read_bytes()]
    )
    manifest = Manifest(name="shapes", version="1.0.0", weights_digest="0" * 64, files=files)
    store = ReleaseStore.of_device(AgentConfig.load(disk / "agent.toml"))
    store.install(sign_manifest(manifest, KEY), {file.name: sources / file.name for file in files})
    return disk


def kept(folder: Path) -> set[int]:
    found: set[int] = set()
    with SampleStore(folder / "samples") as store:
        for split in ("train", "test"):
            if store.count(split):
                found |= {int(number) for number in store.load(split).x[:, 0]}
    return found


def add(device: Device, number: int) -> None:
    device.add_sample(np.full(4000, number, np.float32), number % 3)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_nothing_stops_no_inference_and_loses_no_sample(
    fault: str, device_folder: Path, model: Fixture
) -> None:
    x, expected = model.inference["x"], model.inference["first_output"]
    acknowledged: set[int] = set()
    with Device(device_folder) as device:
        for number in range(20):
            add(device, number)
            acknowledged.add(number)
        if fault == "full":
            filler = fill(device_folder)
        else:
            device.close()
            remount(device_folder, "ro")
        refused = 0
        for number in range(20, 60):
            try:
                add(device, number)
                acknowledged.add(number)
            except SamplesError as error:
                refused += 1
                assert "disk" in str(error)
        assert refused
        np.testing.assert_allclose(device.predict(x), expected, atol=1e-5)
    with Device(device_folder) as fresh:
        np.testing.assert_allclose(fresh.predict(x), expected, atol=1e-5)
    if fault == "full":
        filler.unlink()
    else:
        remount(device_folder, "rw")
    assert acknowledged <= kept(device_folder)
    with Device(device_folder) as device:
        add(device, 99)
        device.predict(x)
    assert acknowledged | {99} <= kept(device_folder)


@pytest.mark.slow
def test_an_agent_on_a_full_disk_says_so_and_recovers(
    coordinator: Fixture, model: Fixture, broker_url: str, disk: Path, tmp_path: Path
) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    for split in ("train", "test"):
        np.savez(samples / f"{split}.npz", x=np.ones((40, 8, 8, 1), np.float32), y=np.zeros(40, np.int32))
    AgentConfig(
        device="d1", fleet="farm", broker=broker_url, folder=str(disk / "state"), samples=str(samples)
    ).write(tmp_path / "agent.toml")
    offered = {
        "program": coordinator.offer(model.program),
        "weights": coordinator.offer(model.weights, codec="f32"),
    }

    def ask(name: str, round_: int) -> None:
        config = {"epochs": 1, "learning-rate": 0.01}
        coordinator.tell(Task, "d1", task=name, round=round_, phase="train", config=config, **offered)

    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "hedgerow.edge", "--config", str(tmp_path / "agent.toml")]
        agent = subprocess.Popen(command, stderr=log)
    try:
        coordinator.wait(DeviceState, online=True)
        ask("kept", 1)
        kept_update = coordinator.wait(Update, task="kept", seconds=30.0)
        filler = fill(disk)
        ask("lost", 2)
        failed = coordinator.wait(Failed, task="lost", seconds=60.0)
        assert "No space left" in failed.reason or "disk is full" in failed.reason
        assert agent.poll() is None
        # What was finished before is still there, and can be sent.
        assert len(coordinator.collect(kept_update)) > 1 << 20
        filler.unlink()
        coordinator.settle(kept_update)
        ask("again", 3)
        again = coordinator.wait(Update, task="again", seconds=60.0)
        coordinator.collect(again)
        coordinator.settle(again)
        agent.terminate()
        assert agent.wait(10) == 0
    finally:
        agent.kill()
        agent.wait()


def test_an_agent_that_cannot_write_its_folder_is_one_clear_line(disk: Path, broker_url: str) -> None:
    AgentConfig(device="d1", fleet="farm", broker=broker_url, folder="state", samples="samples").write(
        disk / "agent.toml"
    )
    remount(disk, "ro")
    command = [sys.executable, "-m", "hedgerow.edge", "--config", str(disk / "agent.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, len(done.stderr.splitlines())) == (59, 1)
    assert "Read-only" in done.stderr


_BREAKS = {
    "current.json cut": lambda state: (state / "releases" / "current.json").write_bytes(b'{"current": {"rel'),
    "current.json gone": lambda state: (state / "releases" / "current.json").unlink(),
    "spool a picture": lambda state: (state / "spool.db").write_bytes(b"\x89PNG" * 5000),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", list(_BREAKS))
def test_a_damaged_state_folder_is_no_end(
    damage: str, coordinator: Fixture, make_agent: Fixture, model: Fixture, tmp_path: Path
) -> None:
    KEY.verify_key.write(tmp_path / "fleet.pem")
    agent = make_agent(channel="stable", release_key=str(tmp_path / "fleet.pem"))
    coordinator.wait(DeviceState, online=True)
    parts = model.inference
    np.savez(tmp_path / "golden.npz", x=parts["x"], **{"m.tflite": parts["first_output"]})
    data = {"m.tflite": parts["first"].tobytes(), "golden.npz": (tmp_path / "golden.npz").read_bytes()}
    for one in data.values():
        coordinator.offer(one)
    kinds = {"m.tflite": "float32", "golden.npz": "golden"}
    files = tuple(
        ModelFile(name, kinds[name], len(one), hashlib.sha256(one).hexdigest())  # type: ignore[arg-type]
        for name, one in data.items()
    )
    manifest = Manifest(name="shapes", version="1.0.0", weights_digest="0" * 64, files=files)
    coordinator.release("stable", sign_manifest(manifest, KEY))

    def serves() -> None:
        until = time.monotonic() + 40.0
        while coordinator.wait(DeviceState, seconds=40.0).capabilities["release"] != "shapes-1.0.0":
            assert time.monotonic() < until

    serves()
    agent.kill()
    _BREAKS[damage](agent.path / "state")
    agent.start()
    serves()
    with Device(agent.path) as device:
        np.testing.assert_allclose(device.predict(parts["x"]), parts["first_output"], atol=1e-5)
