"""`hedgerow release` against a real Mosquitto and a real agent: what a fleet runs, what it goes back to."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hedgerow.cli import app
from hedgerow.edge import Device
from hedgerow.edge.device import LOOK_SECONDS
from hedgerow.errors import ManifestError, PublicationError
from hedgerow.protocol import manifest as manifests
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.messages import DeviceState
from hedgerow.protocol.signatures import SigningKey
from hedgerow.publication import History

Fixture = Any
KEY = SigningKey.generate()


@pytest.fixture
def broker_url(mosquitto: str) -> str:
    return mosquitto


@pytest.fixture
def coordinator(broker_url: str) -> Any:
    """Listens to the fleet."""
    from queue import SimpleQueue

    queue: SimpleQueue[LinkEvent] = SimpleQueue()
    link = MqttLink(Broker.from_url(broker_url), client_id="listener", will=None, on_event=queue.put)
    assert isinstance(queue.get(timeout=10), Connected)
    link.subscribe(["hedgerow/v1/farm/d/d1/state"])
    yield queue
    link.publish("hedgerow/v1/farm/d/d1/state", b"", retain=True)
    link.publish("hedgerow/v1/farm/all/release/stable", b"", retain=True)
    link.publish("hedgerow/v1/farm/all/release/canary", b"", retain=True)
    link.close()


@pytest.fixture
def config(tmp_path: Path, broker_url: str) -> Path:
    path = tmp_path / "hedgerow.toml"
    path.write_text(f'broker = "{broker_url}"\nfleet = "farm"\nmodel = "none.tflite"\nfolder = "fleet"\n')
    KEY.write(tmp_path / "fleet.key")
    KEY.verify_key.write(tmp_path / "fleet.key.pem")
    return path


def build(folder: Path, model: Fixture, version: str, which: str = "first") -> Path:
    """A release as `hedgerow convert` writes one."""
    folder = folder / f"shapes-{version}"
    folder.mkdir(parents=True)
    (folder / "float32.tflite").write_bytes(model.inference[which].tobytes())
    (folder / "trainable.tflite").write_bytes(model.program)
    golden = {"x": model.inference["x"], "float32.tflite": model.inference[f"{which}_output"]}
    np.savez(folder / "golden.npz", **golden)
    kinds = {"float32.tflite": "float32", "trainable.tflite": "trainable", "golden.npz": "golden"}
    files = tuple(
        ModelFile(name, kind, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())  # type: ignore[arg-type]
        for name, kind in kinds.items()
        if (path := folder / name)
    )
    manifest = Manifest(name="shapes", version=version, weights_digest="0" * 64, files=files)
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    return folder


def hedgerow(config: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """Runs `hedgerow release WORDS --json` in this process; what it printed."""
    key = (
        ["--key", str(config.with_name("fleet.key"))]
        if words[0] in ("publish", "promote", "rollback")
        else []
    )
    result = CliRunner().invoke(app, ["release", *words, *key, "--config", str(config), "--json"])
    if code:
        assert result.exception is not None
        assert getattr(result.exception, "exit_code", None) == code, result.output
        return []
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def wait_for_release(listener: Any, release: str, seconds: float = 40.0) -> DeviceState:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        event = listener.get(timeout=max(until - time.monotonic(), 0.01))
        if isinstance(event, Received) and event.payload:
            state = json.loads(event.payload)
            if state["capabilities"].get("release") == release:
                return state  # type: ignore[no-any-return]
    raise AssertionError(f"no device runs {release}")


def test_publish_install_promote_and_roll_back(
    coordinator: Any, config: Path, model: Fixture, make_agent: Fixture, tmp_path: Path
) -> None:
    agent = make_agent(channel="stable", release_key=str(tmp_path / "fleet.key.pem"))
    x = model.inference["x"]
    first = build(tmp_path / "built", model, "1.0.0", "first")
    assert hedgerow(config, "publish", str(first))[0]["release"] == "shapes-1.0.0"
    wait_for_release(coordinator, "shapes-1.0.0")
    second = build(tmp_path / "built", model, "1.1.0", "second")
    (offer,) = hedgerow(config, "publish", str(second), "--channel", "canary")
    assert (offer["channel"], offer["percent"], offer["files"]) == (
        "canary", 100.0, ["float32.tflite", "golden.npz"],
    )  # fmt: skip
    with Device(agent.path) as device:
        np.testing.assert_allclose(device.predict(x), model.inference["first_output"], atol=1e-5)
        (offer,) = hedgerow(config, "promote")
        assert (offer["channel"], offer["release"]) == ("stable", "shapes-1.1.0")
        wait_for_release(coordinator, "shapes-1.1.0")
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), model.inference["second_output"], atol=1e-5)
        (offer,) = hedgerow(config, "rollback")
        assert (offer["release"], offer["content"]) == ("shapes-1.1.1", "shapes-1.0.0")
        wait_for_release(coordinator, "shapes-1.1.1")
        time.sleep(LOOK_SECONDS)
        np.testing.assert_allclose(device.predict(x), model.inference["first_output"], atol=1e-5)
    listed = hedgerow(config, "list", "--devices")
    assert [(one["channel"], one["release"], one["offered"]) for one in listed[:-1]] == [
        ("canary", "shapes-1.1.0", True),
        ("stable", "shapes-1.0.0", False),
        ("stable", "shapes-1.1.0", False),
        ("stable", "shapes-1.1.1", True),
    ]
    assert (listed[-1]["device"], listed[-1]["release"]) == ("d1", "shapes-1.1.1")
    code, seconds = agent.stop()
    assert (code, seconds < 1.0) == (0, True), agent.log


def test_a_rollout_reaches_the_devices_that_its_percentage_says(
    coordinator: Any, config: Path, model: Fixture, make_agent: Fixture, tmp_path: Path
) -> None:
    """Where d1 stands by the rule in docs/protocol.md: just below it nothing comes, just above it does."""
    place = int.from_bytes(hashlib.sha256(b"d1 shapes-1.0.0").digest()[:8], "big") / 2**64 * 100
    agent = make_agent(channel="stable", release_key=str(tmp_path / "fleet.key.pem"))
    folder = build(tmp_path / "built", model, "1.0.0")
    hedgerow(config, "publish", str(folder), "--percent", str(place - 0.1))
    until = time.monotonic() + 20.0
    while "shapes-1.0.0 has not reached this device yet" not in agent.log:
        assert time.monotonic() < until, agent.log
        time.sleep(0.1)
    hedgerow(config, "promote", "--from", "stable", "--to", "stable", "--percent", str(place + 0.1))
    wait_for_release(coordinator, "shapes-1.0.0")


@pytest.mark.slow
def test_a_broker_that_lost_its_memory_gets_everything_back(
    coordinator: Any, config: Path, model: Fixture, make_agent: Fixture, tmp_path: Path, broker_url: str
) -> None:
    hedgerow(config, "publish", str(build(tmp_path / "built", model, "1.0.0")))
    link = MqttLink(Broker.from_url(broker_url), client_id="eraser", will=None, on_event=lambda event: None)
    with History(tmp_path / "fleet" / "releases") as history:
        for digest in history.wanted():
            link.publish(f"hedgerow/v1/farm/all/blob/{digest}/0", b"", retain=True)
    link.publish("hedgerow/v1/farm/all/release/stable", b"", retain=True)
    link.close()
    assert [one["release"] for one in hedgerow(config, "restore")] == ["shapes-1.0.0"]
    make_agent(channel="stable", release_key=str(tmp_path / "fleet.key.pem"))
    wait_for_release(coordinator, "shapes-1.0.0")


def test_what_cannot_be_published_says_why_and_changes_nothing(
    coordinator: Any, config: Path, model: Fixture, tmp_path: Path
) -> None:
    hedgerow(config, "rollback", code=PublicationError.exit_code)
    hedgerow(config, "promote", code=PublicationError.exit_code)
    hedgerow(config, "publish", str(tmp_path / "nowhere"), code=PublicationError.exit_code)
    folder = build(tmp_path / "built", model, "1.0.0")
    hedgerow(config, "publish", str(folder))
    hedgerow(config, "publish", str(folder))
    hedgerow(config, "rollback", code=PublicationError.exit_code)
    hedgerow(config, "publish", str(build(tmp_path / "old", model, "0.9.0")), code=PublicationError.exit_code)
    spoiled = build(tmp_path / "built", model, "1.2.0")
    (spoiled / "float32.tflite").write_bytes(b"other bytes")
    hedgerow(config, "publish", str(spoiled), code=ManifestError.exit_code)
    without = build(tmp_path / "built", model, "1.3.0")
    manifest = manifests.decode((without / "manifest.json").read_bytes())
    bare = Manifest(name="shapes", version="1.3.0", weights_digest="0" * 64, files=manifest.files[:1])
    (without / "manifest.json").write_bytes(manifests.encode(bare))
    hedgerow(config, "publish", str(without), code=ManifestError.exit_code)
    assert [one["release"] for one in hedgerow(config, "list")] == ["shapes-1.0.0"]


def test_a_version_never_goes_down_and_a_rollback_never_forward(tmp_path: Path, model: Fixture) -> None:
    with History(tmp_path / "history") as history:

        def done(publication: Any) -> tuple[str, str]:
            history.has_published()
            return publication.manifest.version, publication.content

        for version, which in (("1.0.0", "first"), ("1.1.0", "second"), ("2.0.0", "first")):
            folder = build(tmp_path / "built", model, version, which)
            assert done(history.publish(folder, "stable", KEY, percent=100.0))[0] == version
        assert done(history.rollback("stable", KEY)) == ("2.0.1", "shapes-1.1.0")
        assert done(history.rollback("stable", KEY)) == ("2.0.2", "shapes-1.0.0")
        with pytest.raises(PublicationError):
            history.rollback("stable", KEY)
        assert done(history.rollback("stable", KEY, to="1.1.0")) == ("2.0.3", "shapes-1.1.0")
        assert done(history.promote("stable", "canary", KEY, percent=100.0))[0] == "2.0.3"
        folder = build(tmp_path / "built", model, "3.0.0", "first")
        done(history.publish(folder, "stable", KEY, percent=100.0))
        # The canaries had 2.0.3; what they get back from there must not be lower than anybody's.
        assert done(history.rollback("stable", KEY)) == ("3.0.1", "shapes-1.1.0")
        assert done(history.promote("canary", "stable", KEY, percent=50.0)) == ("3.0.2", "shapes-1.1.0")


_PUBLISH = """
import sys
from pathlib import Path
from hedgerow import publisher
from hedgerow.cli import main

if sys.argv[1] == "die":
    publisher.Publisher._check = lambda self, expected: sys.exit(9)
sys.argv = ["hedgerow", *sys.argv[2:]]
main()
"""


def test_an_interrupted_publication_is_finished_by_the_next_command(
    coordinator: Any, config: Path, model: Fixture, tmp_path: Path
) -> None:
    """The manifest was on its way when the command died: nobody knows whether the broker has it."""
    for version, which in (("1.0.0", "first"), ("1.1.0", "second")):
        hedgerow(config, "publish", str(build(tmp_path / "built", model, version, which)))
    words = ["release", "rollback", "--key", str(config.with_name("fleet.key")), "--config", str(config)]
    died = subprocess.run([sys.executable, "-c", _PUBLISH, "die", *words], capture_output=True, timeout=60)
    assert died.returncode == 9
    (offer,) = hedgerow(config, "rollback")
    assert (offer["release"], offer["content"]) == ("shapes-1.1.1", "shapes-1.0.0")
    with History(tmp_path / "fleet" / "releases") as history:
        assert history.pending is None


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "farm.key"
    assert CliRunner().invoke(app, ["release", "keygen", str(path)]).exit_code == 0
    assert path.stat().st_mode & 0o077 == 0
    made = path.read_bytes()
    assert getattr(CliRunner().invoke(app, ["release", "keygen", str(path)]).exception, "exit_code", 0) == 67
    assert path.read_bytes() == made
    assert SigningKey.read(path).verify_key.key_id
