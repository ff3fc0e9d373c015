"""`hedgerow agent` beside a running agent, and the agent as a service."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hedgerow.cli import app
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.logs import begin_log
from hedgerow.edge.readiness import ReadinessPolicy
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.sample_store import SampleStore
from hedgerow.edge.samples import SampleFolder
from hedgerow.edge.service import unit_name, unit_text
from hedgerow.edge.service_manager import ServiceManager
from hedgerow.errors import AgentNotRunningError, SamplesError, ServiceError
from hedgerow.protocol.messages import Accepted, DeviceState, Task, Update

Fixture = Any
FIELDS = {"device": "barn-7", "fleet": "farm", "broker": "mqtt://b", "folder": "state", "samples": "samples"}


def hedgerow(*words: object, code: int = 0) -> Any:
    """Runs `hedgerow agent WORDS` in this process; its JSON, or the words of its error."""
    result = CliRunner().invoke(app, ["agent", *map(str, words)])
    if code:
        assert getattr(result.exception, "exit_code", None) == code, result.output
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in words else result.stdout


def write_config(folder: Path, **fields: Any) -> Path:
    AgentConfig(**(FIELDS | fields)).write(folder / "agent.toml")
    return folder / "agent.toml"


def test_a_device_that_waits_is_told_to_train_now(
    coordinator: Fixture, model: Fixture, make_agent: Fixture
) -> None:
    agent = make_agent(readiness=ReadinessPolicy(samples=81))
    path = agent.path / "agent.toml"
    coordinator.wait(DeviceState, online=True)
    offered = {"program": coordinator.offer(model.program), "weights": coordinator.offer(model.weights)}
    coordinator.tell(Task, "d1", task="t", round=1, phase="train", config={"epochs": 1}, **offered)
    coordinator.wait(Accepted, task="t")
    coordinator.wait(DeviceState, tasks=("t",))
    found = hedgerow("status", "--config", path, "--json")
    assert (found["running"], found["connected"], found["tasks"]) == (True, True, ["t"])
    assert (found["examples"], found["test_examples"]) == (80, 33)
    assert found["said"]["waits_for"] == "81 samples, has 80"
    assert hedgerow("train-now", "--config", path, "--json") == {"device": "d1", "tasks": ["t"]}
    update = coordinator.wait(Update, task="t", seconds=30.0)
    coordinator.settle(update)
    coordinator.wait(DeviceState, tasks=())
    coordinator.tell(Task, "d1", task="t2", round=2, phase="train", config={"epochs": 1}, **offered)
    coordinator.wait(Accepted, task="t2")
    # The next task waits again, once the agent has noticed that the first one is done.
    with pytest.raises(AssertionError):
        coordinator.wait(Update, task="t2", seconds=1.0)
    agent.stop()
    hedgerow("train-now", "--config", path, code=AgentNotRunningError.exit_code)
    assert hedgerow("status", "--config", path, "--json")["running"] is False


def test_samples_are_exported_as_they_were_added(tmp_path: Path) -> None:
    policy = SamplePolicy(encrypted=True, test_fraction=0.3)
    path = write_config(tmp_path, sampling=policy)
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    with SampleStore(tmp_path / "samples", policy=policy) as store:
        store.add_many(x, np.arange(40, dtype=np.int32))
    answer = hedgerow("export-samples", tmp_path / "out", "--config", path, "--json")
    assert answer["train"] + answer["test"] == 40
    assert answer["test"] > 0
    parts = [SampleFolder(tmp_path / "out").load(split) for split in ("train", "test")]
    order = np.argsort(np.concatenate([part.y for part in parts]))
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts])[order], x)
    assert (tmp_path / "out" / "train.npz").stat().st_mode & 0o077 == 0
    hedgerow("export-samples", tmp_path / "out", "--config", path, code=SamplesError.exit_code)


def test_the_unit_is_one_that_systemd_takes_and_finds_safe(tmp_path: Path) -> None:
    path = write_config(tmp_path, memory_limit_mib=100)
    text = hedgerow("install-service", "--config", path, "--user", "daemon", "--print")
    for line in (
        "User=daemon", "WatchdogSec=60", "MemoryMax=260M", "ProtectSystem=strict", "SocketBindDeny=any",
        # systemd 252 of Debian 12 does nothing about ports; its filter of system calls does.
        "SystemCallFilter=~@privileged listen accept accept4",
        f"ReadWritePaths={tmp_path}/samples {tmp_path}/state",
    ):  # fmt: skip
        assert f"\n{line}\n" in text
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / unit_name(AgentConfig.load(path))
    unit.write_text(text)
    verified = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stderr
    command = [program, "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_words_that_systemd_would_take_apart_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "a b%c"
    folder.mkdir()
    path = write_config(folder, target="coral-edge-tpu")
    text = unit_text(AgentConfig.load(path), path, python="/opt/p", user="u")
    assert f'"{tmp_path}/a b%%c/agent.toml"' in text
    assert f'ReadWritePaths="{tmp_path}/a b%%c/samples" "{tmp_path}/a b%%c/state"' in text
    assert "PrivateDevices=no" in text


def test_the_service_is_written_where_units_live(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    units = tmp_path / "units"
    units.mkdir()
    words = ("install-service", "--config", path, "--no-start", "--folder", units)
    said = hedgerow(*words, "--user", "no-such-user", code=ServiceError.exit_code)
    assert "useradd" in said
    user = "root" if os.geteuid() == 0 else os.environ["USER"]
    assert hedgerow(*words, "--user", user).strip() == str(units / "hedgerow-agent-barn-7.service")
    assert (tmp_path / "state").is_dir()


def test_systemd_hears_that_the_agent_is_ready_alive_and_stopping(
    coordinator: Fixture, make_agent: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "900000")
        agent = make_agent()
        assert manager.recv(200) == b"READY=1"
        coordinator.wait(DeviceState, online=True)
        begun, heard = time.monotonic(), []
        while time.monotonic() - begun < 2.0:
            heard.append(manager.recv(200))
        assert len(heard) >= 4
        assert heard[-1] == b"WATCHDOG=1\nSTATUS=connected"
        code, seconds = agent.stop()
        assert (code, seconds < 1.0) == (0, True)
        manager.setblocking(False)
        while (word := manager.recv(200)) != b"STOPPING=1":
            assert word.startswith(b"WATCHDOG=1")


def test_without_a_manager_nothing_is_said() -> None:
    manager = ServiceManager({})
    manager.ready()
    assert manager.watchdog_seconds == float("inf")
    others = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}
    assert ServiceManager(others).watchdog_seconds == float("inf")
    assert ServiceManager(others | {"WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 5.0
    ServiceManager(others).stopping()


_LOG = """
import logging, sys
from pathlib import Path
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.logs import begin_log
begin_log(AgentConfig.load(Path(sys.argv[1])))
for number in range(30_000):
    logging.getLogger("test").info("%06d %s", number, "x" * 100)
"""


def test_the_log_is_of_a_bounded_size(tmp_path: Path) -> None:
    import sys

    path = write_config(tmp_path, log_file="logs/agent.log", log_limit_mib=1, log_files=2)
    done = subprocess.run([sys.executable, "-c", _LOG, str(path)], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all(file.stat().st_size <= 1 << 20 for file in files)
    assert "029999" in files[0].read_text().splitlines()[-1]


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    from hedgerow.errors import AgentConfigError

    (tmp_path / "logs").write_text("a file in the way")
    config = AgentConfig.load(write_config(tmp_path, log_file="logs/agent.log"))
    with pytest.raises(AgentConfigError, match="log_file"):
        begin_log(config)
