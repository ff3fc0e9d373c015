"""A real coordinator process, a fleet of simulated devices in another, on whichever broker a test names."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from hedgerow.coordinator.config import CoordinatorConfig, StrategyConfig
from hedgerow.coordinator.journal import Journal
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received

HERE = Path(__file__).parent
FLEET_PROGRAM = HERE.parents[1] / "benchmarks" / "simulated_fleet.py"
NUMBERS = 40_000
_names = itertools.count()


@dataclass
class Rig:
    """One coordinator and its fleet.

    Args:
        folder: For everything they write.
        broker: Its address.
        fleet: Its name.
    """

    folder: Path
    broker: str
    fleet: str
    devices: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    config: CoordinatorConfig | None = None

    def configure(self, **fields: Any) -> CoordinatorConfig:
        (self.folder / "model.tflite").write_bytes(b"stand-in " * 100)
        strategy = fields.pop("strategy", StrategyConfig())
        self.config = CoordinatorConfig(
            broker=self.broker,
            fleet=self.fleet,
            model=Path("model.tflite"),
            strategy=strategy,
            **{"rounds": 2, "round_seconds": 60.0, "over_selection": 1.0, **fields},
        )
        self.config.write(self.folder / "hedgerow.toml")
        return self.config

    def start_devices(self, count: int, *, work_seconds: float = 0.02) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(FLEET_PROGRAM), "--broker", self.broker, "--fleet", self.fleet]
        command += ["--devices", str(count), "--first", str(self.devices)]
        command += ["--work-seconds", str(work_seconds)]
        command += ["--history", str(self.folder / "history.jsonl")]
        self.devices += count
        return self.start(command, "fleet")

    def start_coordinator(self, *kill: str, numbers: int = NUMBERS) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "launch.py"), str(self.folder / "hedgerow.toml"), str(numbers)]
        return self.start([*command, *kill], "coordinator")

    def start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log, (self.folder / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=log, env=dict(os.environ), preexec_fn=_ignore_sigusr1
            )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes], *, seconds: float = 120.0) -> int:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end: {self.log[-3000:]}") from None

    @property
    def log(self) -> str:
        return (self.folder / "coordinator.log").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder / "coordinator.out").read_bytes().splitlines()
        return [json.loads(line) for line in lines if line.endswith(b"}")]

    @property
    def history(self) -> list[dict[str, Any]]:
        path = self.folder / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def final(self) -> dict[str, np.ndarray]:
        return load_file(self.folder / "coordinator" / "final.safetensors")

    def journal(self) -> Journal:
        return Journal(self.folder / "coordinator")

    def counted(self) -> list[tuple[str, ...]]:
        """The devices whose training updates count, by round."""
        journal = self.journal()
        rounds = [
            tuple(sorted(update.device for update in journal.updates(record.round, "train")))
            for record in journal.rounds()
        ]
        journal.close()
        return rounds

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def _ignore_sigusr1() -> None:
    """Until the process has a handler of its own: it may be struck while it starts."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


MakeRig = Callable[[str], Rig]


@contextmanager
def _rigs(path: Path) -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(broker: str) -> Rig:
        number = next(_names)
        folder = path / f"rig-{number}"
        folder.mkdir()
        rig = Rig(folder, broker, f"test-{os.getpid()}-{number}")
        made.append(rig)
        return rig

    try:
        yield make
    finally:
        for rig in made:
            rig.stop()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    with _rigs(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def make_lasting_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRig]:
    """The same, for what all tests of a module share."""
    with _rigs(tmp_path_factory.mktemp("rigs")) as make:
        yield make


@pytest.fixture
def simulation() -> Any:
    """The program of the simulated devices: how many examples each has, and what it adds to every weight."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("simulated_fleet", FLEET_PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulated_fleet"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def expected_model(simulation: Any) -> Callable[[list[tuple[str, ...]]], float]:
    """What FedAvg adds to every weight when these devices train in these rounds, by arithmetic."""

    def expected(rounds: list[tuple[str, ...]]) -> float:
        total = 0.0
        for round_, devices in enumerate(rounds, 1):
            counts = [simulation.examples_of(device) for device in devices]
            deltas = [simulation.delta(device, round_) for device in devices]
            total += float(np.average(deltas, weights=counts))
        return total

    return expected


DOCUMENT = yaml.safe_load((HERE.parents[1] / "docs" / "asyncapi.yaml").read_text())


def channel_of(topic: str) -> tuple[str, Any]:
    for name, channel in DOCUMENT["channels"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", channel["address"]), topic):
            return name, channel
    raise AssertionError(f"no channel for {topic}")


def check_message(topic: str, payload: bytes) -> tuple[str, dict[str, Any]]:
    """The channel's name and the message, once both are as docs/asyncapi.yaml says."""
    name, channel = channel_of(topic)
    assert topic.count("/") <= 7
    assert len(payload) <= 128 * 1024
    if name == "blob":
        return name, {}
    if name == "up-chunk":
        length = int.from_bytes(payload[:2], "big")
        payload = payload[2 : 2 + length]
    message = json.loads(payload)
    schema = {**channel["messages"][name]["payload"], "components": DOCUMENT["components"]}
    jsonschema.validate(message, schema)
    assert message.get("device", "") in (*topic.split("/"), "")
    return name, message


@pytest.fixture
def sniff() -> Callable[[Rig], Any]:
    """A context that records every message of a fleet and checks it at the end; gives them by channel."""

    @contextmanager
    def sniffing(rig: Rig) -> Iterator[dict[str, list[dict[str, Any]]]]:
        seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        link = MqttLink(
            Broker.from_url(rig.broker), client_id=f"{rig.fleet}-sniffer", will=None, on_event=events.put
        )
        with closing(link):
            assert isinstance(events.get(timeout=10), Connected)
            link.subscribe([f"hedgerow/v1/{rig.fleet}/#"])
            yield seen
            while True:
                try:
                    event = events.get(timeout=1.0)
                except queue.Empty:
                    break
                if isinstance(event, Received) and event.payload:
                    name, message = check_message(event.topic, event.payload)
                    seen[name].append(message)

    return sniffing
