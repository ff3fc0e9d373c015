"""Who an agent is: one id used twice, clocks that are wrong, and what it may touch on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgerow.edge import spool as spools
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.session import Session, events, step
from hedgerow.edge.session.twin import REMEMBERED_SECONDS, twin_of
from hedgerow.edge.spool import Spool
from hedgerow.protocol.messages import DeviceState, Task, Update
from hedgerow.protocol.topics import Topics

Fixture = Any
SESSION = Session.restored(topics=Topics("farm"), device="d1", incarnation=7, instance="me")


def heard(session: Session, incarnation: int, instance: str, *, online: bool = True) -> Session:
    said = {"instance": instance} if instance else {}
    state = DeviceState(device="d1", incarnation=incarnation, counter=1, online=online, capabilities=said)
    return step(session, events.OwnStateHeard(state))[0]


def connected(times: int) -> Session:
    session = SESSION
    for _ in range(times):
        session = step(session, events.LinkUp())[0]
    return session


@pytest.mark.parametrize(
    ("connections", "incarnation", "instance", "online", "twin"),
    [
        (1, 7, "me", True, False),
        (2, 7, "me", True, False),
        (1, 6, "other", True, False),  # our predecessor's last word
        (1, 6, "", True, False),  # that of an agent from before instances
        (1, 7, "other", True, True),  # a copied disk
        (1, 8, "other", True, True),
        (2, 6, "other", True, True),  # between our connections somebody else was there
        (2, 6, "other", False, True),  # and this is its will
        (1, 6, "other", False, False),
        (1, 8, "other", False, False),  # our predecessor's will, from before the disk was replaced
    ],
)
def test_a_twin_is_told_from_a_predecessor(
    connections: int, incarnation: int, instance: str, online: bool, twin: bool
) -> None:
    session = heard(connected(connections), incarnation, instance, online=online)
    assert bool(twin_of(session)) == twin


def test_a_twin_is_announced_once_and_forgotten_after_a_while() -> None:
    state = DeviceState(device="d1", incarnation=9, counter=1, online=True)
    session, actions = step(connected(1), events.OwnStateHeard(state))
    (announced,) = [action for action in actions if isinstance(action, events.Announce)]
    assert "incarnation 9" in announced.twin
    session, actions = step(session, events.OwnStateHeard(state))
    assert actions == ()
    assert twin_of(replace(session, now=session.now + REMEMBERED_SECONDS)) == ""


@pytest.mark.parametrize(("instance", "online", "again"), [("me", False, True), ("me", True, False)])
def test_a_will_that_comes_after_the_next_birth_is_contradicted(
    instance: str, online: bool, again: bool
) -> None:
    state = DeviceState(
        device="d1", incarnation=7, counter=0, online=online, capabilities={"instance": instance}
    )
    _, actions = step(connected(2), events.OwnStateHeard(state))
    assert [type(action) for action in actions] == [events.Announce] * again


def test_two_agents_with_one_id_find_out_about_each_other(
    coordinator: Fixture, mosquitto: str, tmp_path: Path
) -> None:
    """On Mosquitto: the embedded broker, thrown between two clients of one id, tells each its own will."""
    listener = type(coordinator)(mosquitto)
    twins = []
    try:
        for name in ("one", "other"):
            (tmp_path / name / "samples").mkdir(parents=True)
            AgentConfig(device="d1", fleet="farm", broker=mosquitto, folder="state", samples="samples").write(
                tmp_path / name / "agent.toml"
            )
            command = [sys.executable, "-m", "hedgerow.edge", "--config", str(tmp_path / name / "agent.toml")]
            with (tmp_path / name / "log").open("wb") as log:
                twins.append(subprocess.Popen(command, stderr=log))
        until = time.monotonic() + 30.0
        while "twin" not in listener.wait(DeviceState, seconds=30.0).capabilities:
            assert time.monotonic() < until
    finally:
        for twin in twins:
            twin.kill()
            twin.wait()
        listener.close()
    logs = "".join((tmp_path / name / "log").read_text() for name in ("one", "other"))
    assert "another agent is d1, too" in logs
    assert "give each device an id of its own" in logs


def test_no_clock_makes_an_incarnation_go_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    for seconds in (1_800_000_000.0, 0.0, 4e9, 1_700_000_000.0):
        monkeypatch.setattr(spools.time, "time", lambda seconds=seconds: seconds)
        with Spool(tmp_path) as spool:
            counted.append(spool.begin())
    assert counted == [1_800_000_000, 1_800_000_001, 1_800_000_002, 1_800_000_003]


class Nobody:
    """An ordinary user of this machine, with a Python that he may run: ours may lie in root's home."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can become another user")
        name = f"python3.{sys.version_info.minor}"
        pythons = [sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")]
        for self.python in filter(None, pythons):
            process = self.run("-c", "import hedgerow.edge, numpy, tflite_runtime")
            process.communicate()
            if process.returncode == 0:
                return
        pytest.skip("no Python here is open to other users")

    def run(self, *words: str) -> subprocess.Popen[bytes]:
        folders = (str(Path(__file__).parents[2]), *sys.path)
        environment = {
            "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": "/usr/bin",
        }
        try:
            return subprocess.Popen(
                [self.python, *words], cwd="/", user=65534, group=65534, extra_groups=[],
                stderr=subprocess.PIPE, env=environment,
            )  # fmt: skip
        except PermissionError:
            return subprocess.Popen(["false"], stderr=subprocess.PIPE)


def listening(pid: int) -> list[str]:
    """The TCP and UDP sockets that a process listens on, by /proc/net (proc(5)) and its file descriptors."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table, listen in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] == listen:
                found.append(f"{table} {fields[1]}")
    return found


@pytest.mark.slow
def test_an_ordinary_user_who_writes_his_folder_only_and_opens_no_port(
    coordinator: Fixture, model: Fixture, broker_url: str
) -> None:
    nobody = Nobody()
    # /tmp/pytest-of-root is closed to others.
    outside = Path("/var/tmp") / f"hedgerow-{os.getpid()}"
    home, config = outside / "home", outside / "config"
    try:
        for folder in (home, home / "state", home / "samples", config):
            folder.mkdir(parents=True)
        _write_samples(home / "samples")
        AgentConfig(
            device="d1",
            fleet="farm",
            broker=broker_url,
            folder=str(home / "state"),
            samples=str(home / "samples"),
        ).write(config / "agent.toml")
        for path in (config, config / "agent.toml"):
            path.chmod(0o755)
        for path in (home / "state", home / "samples"):
            os.chown(path, 65534, 65534)
        before = _tree(outside)
        began = time.time_ns()
        agent = nobody.run("-m", "hedgerow.edge", "--config", str(config / "agent.toml"))
        try:
            coordinator.wait(DeviceState, online=True)
            offered = {
                "program": coordinator.offer(model.program),
                "weights": coordinator.offer(model.weights),
            }
            coordinator.tell(Task, "d1", task="t", round=1, phase="train", config={"epochs": 1}, **offered)
            update = coordinator.wait(Update, task="t", seconds=30.0)
            assert Path(f"/proc/{agent.pid}").stat().st_uid == 65534
            assert listening(agent.pid) == []
            coordinator.settle(update)
            coordinator.wait(DeviceState, tasks=())
        finally:
            agent.terminate()
            _, said = agent.communicate(timeout=10)
        assert agent.returncode == 0, said.decode()
        written = {path for path, stamp in _tree(outside).items() if before.get(path) != stamp}
        assert written
        assert all(Path(path).is_relative_to(home / "state") for path in written), written
        assert _written_by_nobody(began, but=outside) == []
    finally:
        shutil.rmtree(outside, ignore_errors=True)


def _write_samples(folder: Path) -> None:
    import numpy as np

    for split in ("train", "test"):
        x = np.zeros((40, 8, 8, 1), np.float32)
        np.savez(folder / f"{split}.npz", x=x, y=np.zeros(40, np.int32))


def _tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _written_by_nobody(since: int, *, but: Path) -> list[str]:
    """Files of the user `nobody` that changed since then, wherever he may usually write."""
    found = []
    for root in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if path.is_relative_to(but):
                    continue
                try:
                    stat = path.lstat()
                except OSError:
                    continue
                if stat.st_uid == 65534 and stat.st_mtime_ns >= since:
                    found.append(str(path))
    return found
