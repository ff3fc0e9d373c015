"""Rounds under a storm of seeded faults, and a checker of the history: nothing lost, nothing counted twice.

HEDGEROW_FAULTS (200) and HEDGEROW_FAULT_SEED choose the storm; each kind of fault comes at least once. Real
coordinator, real agents with arithmetic for training, real Mosquitto; every connection goes through a proxy
that cuts, delays, repeats and reorders.
"""

from __future__ import annotations

import os
import queue
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.broker import free_port
from hedgerow.edge.config import AgentConfig
from hedgerow.processes import wait_for_port
from hedgerow.protocol import messages
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.topics import Topics

Fixture = Any
HERE = Path(__file__).parent
FLEET_PROGRAM = HERE.parents[1] / "benchmarks" / "simulated_fleet.py"
DEVICES = 4
FAULTS = int(os.environ.get("HEDGEROW_FAULTS", "200"))
SEED = int(os.environ.get("HEDGEROW_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
# How often each fault is drawn, by what it costs to recover from.
WEIGHTS = {
    "broker killed": 3,
    "coordinator killed": 8,
    "coordinator cut": 6,
    "coordinator's disk full": 4,
    "device killed": 3,
    "device killed in download": 4,
    "device killed in training": 4,
    "device killed in upload": 4,
    "device killed, clock a day off": 3,
    "device's disk full": 2,
    "device cut": 14,
    "torn in a chunk": 6,
    "hang": 5,
    "slow": 6,
    "late": 4,
    "twice": 8,
    "shuffle": 6,
    "two devices with one id": 5,
    "garbage": 8,
    "oversized": 3,
    "stale incarnation": 8,
    "replay": 8,
}


# What a device is doing is told by what was last said to it, or by its own history.
MOMENTS = {"download": "down/task", "upload": "down/grant"}
MOMENT_SECONDS = 15.0


def deal(count: int, chance: random.Random) -> list[str]:
    """So many faults in a random order, each kind at least once."""
    drawn = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=max(count - len(WEIGHTS), 0))
    faults = [*WEIGHTS, *drawn]
    chance.shuffle(faults)
    return faults


class Storm:
    """The processes of one run, and everything that can be done to them."""

    def __init__(self, rig: Fixture, *, persistent: bool) -> None:
        self.rig, self.random = rig, random.Random(SEED)
        self.topics = Topics(rig.fleet)
        self.broker_port, *self.ports = (free_port() for _ in range(DEVICES + 2))
        self._write_broker_config(persistent)
        self.broker = self._start_broker()
        command = [sys.executable, str(HERE / "chaos_proxy.py"), str(self.broker_port), *map(str, self.ports)]
        self.proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.proxy.stdout is not None
        assert self.proxy.stdout.readline() == b"ready\n"
        rig.broker = f"mqtt://127.0.0.1:{self.ports[0]}"
        rig.configure(start_devices=DEVICES, minimum_devices=DEVICES, rounds=10_000, round_seconds=120.0)
        self.agents = [self._make_agent(number) for number in range(DEVICES)]
        self.coordinator = self._start_coordinator()
        self.heard: list[Received] = []
        self.faults = deal(FAULTS // 2, self.random)
        self.counts: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self._open_peer()

    # --- the processes ------------------------------------------------------------------------------------

    def _write_broker_config(self, persistent: bool) -> None:
        folder = self.rig.folder / "mosquitto"
        folder.mkdir()
        lines = [f"listener {self.broker_port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true"]
        if persistent:
            lines += ["persistence true", f"persistence_location {folder}/", "user root"]
            lines += ["autosave_interval 1", "autosave_on_changes true"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def _start_broker(self) -> subprocess.Popen[bytes]:
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("mosquitto is not installed")
        config = self.rig.folder / "mosquitto" / "mosquitto.conf"
        process = subprocess.Popen(
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert wait_for_port(self.broker_port, process)
        return process

    def _make_agent(self, number: int) -> subprocess.Popen[bytes]:
        folder = self.rig.folder / f"d{number:04d}"
        (folder / "samples").mkdir(parents=True)
        for split in ("train", "test"):
            np.savez(
                folder / "samples" / f"{split}.npz", x=np.zeros((50, 1), np.float32), y=np.zeros(50, np.int32)
            )
        config = AgentConfig(
            device=f"d{number:04d}",
            fleet=self.rig.fleet,
            broker=f"mqtt://127.0.0.1:{self.ports[number + 1]}",
            folder="state",
            samples="samples",
        )
        config.write(folder / "agent.toml")
        return self._start_agent(number)

    def _start_agent(self, number: int, *shift: str) -> subprocess.Popen[bytes]:
        path = self.rig.folder / f"d{number:04d}" / "agent.toml"
        command = [
            sys.executable,
            str(HERE / "run_agent.py"),
            str(path),
            str(self.rig.folder / "history.jsonl"),
        ]
        return self.rig.start([*command, str(FLEET_PROGRAM), *shift], f"d{number:04d}")

    def _start_coordinator(self) -> subprocess.Popen[bytes]:
        return self.rig.start_coordinator()

    def _open_peer(self) -> None:
        """A client of our own, past the proxy: it listens in, and says what no device would."""
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self.peer = MqttLink(
            Broker.from_url(f"mqtt://127.0.0.1:{self.broker_port}"),
            client_id=f"{self.rig.fleet}-peer",
            will=None,
            on_event=self._events.put,
        )

    def listen(self) -> list[Received]:
        """Everything that was said since it was last asked."""
        new: list[Received] = []
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                self.heard = [*self.heard[-400:], *new]
                return new
            if isinstance(event, Connected):
                self.peer.subscribe([self.topics.uplinks, self.topics.down("+", "+")])
            elif isinstance(event, Received):
                new.append(event)

    def wait_for_moment(self, doing: str) -> int | None:
        """The number of the next device that begins to do this, or None when none does for a while."""
        self.listen()
        before, until = len(self.rig.history), time.monotonic() + MOMENT_SECONDS
        while time.monotonic() < until:
            said = [self.topics.parse(event.topic) for event in self.listen()]
            names = [place.device for place in said if place and place.kind == MOMENTS.get(doing)]
            if doing == "training":
                lines = self.rig.history[before:]
                names = [line["device"] for line in lines if line["what"] == "training"]
            if names:
                return int(names[0][1:])
            time.sleep(0.002)
        return None

    def stop(self) -> None:
        self.peer.close()
        for process in (self.proxy, self.broker):
            process.kill()
            process.wait()
        for pipe in (self.proxy.stdin, self.proxy.stdout):
            assert pipe is not None
            pipe.close()

    # --- faults -------------------------------------------------------------------------------------------

    def strike(self) -> None:
        self.listen()
        fault = self.faults.pop()
        self.counts[fault] += 1
        number = self.random.randrange(DEVICES)
        match fault:
            case "broker killed":
                self.broker.kill()
                self.broker.wait()
                time.sleep(self.random.uniform(0, 0.5))
                self.broker = self._start_broker()
            case "coordinator killed":
                self.coordinator.kill()
                self.coordinator.wait()
                self.coordinator = self._start_coordinator()
            case "coordinator's disk full":
                self.coordinator.send_signal(signal.SIGUSR1)
            case "device's disk full":
                self.agents[number].send_signal(signal.SIGUSR1)
            case (
                "device killed"
                | "device killed, clock a day off"
                | "device killed in download"
                | "device killed in training"
                | "device killed in upload"
            ):
                if " in " in fault:
                    doing = self.wait_for_moment(fault.rpartition(" ")[2])
                    number = number if doing is None else doing
                    self.moments[fault] += doing is not None
                self.agents[number].kill()
                self.agents[number].wait()
                shift = [self.random.choice(("-86400", "86400"))] if "clock" in fault else []
                self.agents[number] = self._start_agent(number, *shift)
            case "coordinator cut":
                self._command(0, "cut")
            case "device cut":
                self._command(number + 1, "cut")
            case "torn in a chunk":
                self._command(self.random.randrange(DEVICES + 1), "tear")
            case "hang" | "slow" | "late" | "twice" | "shuffle":
                self._command(self.random.randrange(DEVICES + 1), fault)
            case _:
                self._speak(fault, f"d{number:04d}")

    def _command(self, port: int, mode: str) -> None:
        assert self.proxy.stdin is not None
        self.proxy.stdin.write(f"{self.ports[port]} {mode} {self.random.uniform(0.5, 2.0):.2f}\n".encode())
        self.proxy.stdin.flush()

    def _speak(self, fault: str, device: str) -> None:
        match fault:
            case "two devices with one id":
                twin = MqttLink(
                    Broker("127.0.0.1", self.broker_port),
                    client_id=device,
                    will=None,
                    on_event=lambda event: None,
                )
                time.sleep(0.1)
                twin.close(timeout_seconds=0.2)
            case "garbage":
                for topic in self._every_topic(device):
                    self.peer.publish(topic, self.random.randbytes(self.random.randrange(200)))
            case "oversized":
                for topic in self._every_topic(device):
                    self.peer.publish(topic, self.random.choice((b"[", b'{"a":', b"\xff")) * 150_000)
            case "stale incarnation":
                stamp = {"device": device, "incarnation": 1, "counter": self.random.randrange(10**6)}
                dead = messages.DeviceState(online=False, **stamp)
                self.peer.publish(self.topics.state(device), messages.encode(dead))
                for event in self.random.sample(self.heard, min(len(self.heard), 5)):
                    place = self.topics.parse(event.topic)
                    if place is not None and place.device == device and place.kind == "up/update":
                        old = event.payload.replace(b'"incarnation":', b'"incarnation":0,"was":')
                        self.peer.publish(event.topic, old)
            case "replay":
                for event in self.random.sample(self.heard, min(len(self.heard), 20)):
                    self.peer.publish(event.topic, event.payload)

    def _every_topic(self, device: str) -> list[str]:
        """Each kind of topic of the protocol, and chunks of the blobs that devices fetch now."""
        told = [event.payload for event in self.heard if event.topic.endswith("down/task")][-1:]
        digests = re.findall(rb'"sha256":"([0-9a-f]{64})"', told[0]) if told else []
        return [
            self.topics.coordinator,
            self.topics.release("stable"),
            *(self.topics.chunk(digest.decode(), 0) for digest in digests),
            *(f"{self.topics.root}/d/{device}/{kind}" for kind in messages.CLASSES if kind != "coordinator"),
            self.topics.up(device, "none"),
            self.topics.down(device, "none"),
        ]


@pytest.fixture(params=[True, False], ids=["persistent", "forgetful"])
def storm(request: pytest.FixtureRequest, make_rig: Fixture) -> Iterator[Storm]:
    storm = Storm(make_rig(""), persistent=request.param)
    yield storm
    storm.stop()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_counts_twice(storm: Storm, expected_model: Fixture) -> None:
    rig, recoveries = storm.rig, []
    started = time.monotonic()
    wait_for_updates(storm, 1)
    while storm.faults:
        for _ in range(min(storm.random.randrange(1, 5), len(storm.faults))):
            storm.strike()
            time.sleep(storm.random.uniform(0.05, 0.4))
        struck, before = time.monotonic(), updates(rig)
        wait_for_updates(storm, before + 1)
        recoveries.append(time.monotonic() - struck)
    calm = len(rig.counted())
    until = time.monotonic() + 120
    while len(rig.counted()) < calm + 2:
        assert time.monotonic() < until, f"seed {SEED}: no more rounds: {rig.log[-3000:]}"
        time.sleep(0.2)
    storm.coordinator.send_signal(signal.SIGTERM)
    assert rig.finish(storm.coordinator) == 0, rig.log[-3000:]
    rounds = rig.counted()
    print(  # noqa: T201
        f"\nseed {SEED}: {sum(storm.counts.values())} faults in {time.monotonic() - started:.0f} s,"
        f" {len(rounds)} rounds, next update after {statistics.median(recoveries):.1f} s"
        f" (median; at most {max(recoveries):.1f} s): {dict(storm.counts)};"
        f" killed at the very moment: {dict(storm.moments)}"
    )
    assert storm.counts.keys() == WEIGHTS.keys()
    check(storm, rounds, expected_model)


def updates(rig: Fixture) -> int:
    journal = rig.journal()
    records = [
        journal.updates(number, phase) for number in count_from(journal) for phase in ("train", "evaluate")
    ]
    journal.close()
    return sum(map(len, records))


def count_from(journal: Any) -> range:
    return range(1, len(journal.rounds()) + 2)


def wait_for_updates(storm: Storm, wanted: int) -> None:
    until = time.monotonic() + 120
    while updates(storm.rig) < wanted:
        storm.listen()
        code = storm.coordinator.poll()
        assert code is None, f"seed {SEED}: the coordinator left with {code}: {storm.rig.log[-3000:]}"
        assert time.monotonic() < until, (
            f"seed {SEED}: stuck after {dict(storm.counts)}: {storm.rig.log[-3000:]}"
        )
        time.sleep(0.1)


def check(storm: Storm, rounds: list[tuple[str, ...]], expected_model: Fixture) -> None:
    rig = storm.rig
    journal = rig.journal()
    phases = [(number, phase) for number in range(1, len(rounds) + 1) for phase in ("train", "evaluate")]
    records = {place: journal.phase(*place) for place in phases}
    counted = [update.task for place in phases for update in journal.updates(*place)]
    open_place = [(len(rounds) + 1, phase) for phase in ("train", "evaluate")]
    pending = {update.task for place in open_place for update in journal.updates(*place)}
    refusals = {task for place in phases for task in journal.refusals(*place)}
    last = journal.rounds()[-1].weights
    journal.close()
    finished = {line["task"] for line in rig.history if line["what"] == "finished"}
    settled = [line for line in rig.history if line["what"] == "settled"]
    accepted = {line["task"] for line in settled if line["accepted"]}
    refused = {line["task"] for line in settled if not line["accepted"]}
    assert max(Counter(counted).values()) == 1, f"seed {SEED}: counted twice"
    begun = {line["task"] for line in rig.history if line["what"] == "finishing"}
    assert set(counted) <= begun, f"seed {SEED}: counted without having been finished"
    assert accepted <= set(counted) | pending, f"seed {SEED}: accepted and not counted"
    assert not refused & set(counted), f"seed {SEED}: refused and counted"
    assert not refusals, f"seed {SEED}: a good update was refused"
    for place, record in records.items():
        assert record is not None
        asked = {task for task in finished if task.split("-", 1)[1].startswith(f"{place[0]}-{place[1]}-")}
        assert record.closed in ("target", "all ended"), f"seed {SEED}: {place} closed by {record.closed}"
        assert asked <= set(counted), f"seed {SEED}: lost in {place}: {asked - set(counted)}"
    print(f"history: {len(finished)} finished, {len(counted)} counted; 0 lost, 0 twice, 0 after close")  # noqa: T201
    # The model is what arithmetic makes of exactly these updates, each counted once.
    from safetensors.numpy import load

    model = load((rig.folder / "coordinator" / "blobs" / "complete" / last.sha256).read_bytes())
    np.testing.assert_allclose(model["dense/bias"], expected_model(rounds), rtol=1e-5)
