"""What goes wrong around a real coordinator: processes that die, and devices that follow no rules."""

from __future__ import annotations

import json
import queue
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.broker import free_port
from hedgerow.coordinator.config import StrategyConfig
from hedgerow.processes import wait_for_port
from hedgerow.protocol import blobs, messages, tensors
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.topics import Topics

Fixture = Any


def wait_for(condition: Any, *, seconds: float = 30.0, what: str = "") -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def counted_events(rig: Fixture) -> int:
    return sum(event["event"] == "update_counted" for event in rig.events)


def test_downlink_bytes_do_not_depend_on_the_number_of_devices(mosquitto: str, make_rig: Fixture) -> None:
    bytes_down = []
    for devices in (2, 16):
        rig = make_rig(mosquitto)
        rig.configure(start_devices=devices, minimum_devices=devices)
        rig.start_devices(devices)
        assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
        journal = rig.journal()
        bytes_down.append([record.bytes_down for record in journal.rounds()])
        journal.close()
        assert [len(counted) for counted in rig.counted()] == [devices, devices]
    assert bytes_down[0] == bytes_down[1]
    assert bytes_down[0][1] > 0


def test_a_device_that_is_killed_does_not_hang_the_round(mosquitto: str, make_rig: Fixture) -> None:
    rig = make_rig(mosquitto)
    rig.configure(start_devices=4, minimum_devices=2, rounds=1, round_seconds=4.0)
    rig.start_devices(3)
    doomed = rig.start_devices(1, work_seconds=60.0)
    coordinator = rig.start_coordinator()
    wait_for(lambda: counted_events(rig) >= 3, what="three updates")
    doomed.kill()
    assert rig.finish(coordinator) == 0, rig.log[-2000:]
    assert rig.counted() == [("d0000", "d0001", "d0002")]
    assert "train closed: deadline, 3 of 4" in rig.log


def test_sigterm_stops_at_once_and_the_next_start_goes_on(broker_url: str, make_rig: Fixture) -> None:
    rig = make_rig(broker_url)
    rig.configure(start_devices=3, minimum_devices=3, rounds=1)
    rig.start_devices(2)
    slow = rig.start_devices(1, work_seconds=4.0)
    coordinator = rig.start_coordinator()
    wait_for(lambda: counted_events(rig) >= 2, what="two updates")
    coordinator.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert rig.finish(coordinator) == 0
    assert time.monotonic() - started < 3.0
    assert slow.poll() is None
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    assert [len(devices) for devices in rig.counted()] == [3]
    tasks = {line["task"] for line in rig.history if line["what"] == "finished"}
    assert len(tasks) == 6, "nobody trained twice"


def test_a_sleeping_device_is_asked_when_it_is_back(mosquitto: str, make_rig: Fixture) -> None:
    rig = make_rig(mosquitto)
    rig.configure(start_devices=2, minimum_devices=2, rounds=1, asleep_seconds=600.0)
    rig.start_devices(1)
    coordinator = rig.start_coordinator()
    sleeper = Hostile(mosquitto, rig.fleet, "sleeper")
    task = sleeper.hear(messages.Task).task
    sleeper.say(messages.Failed, task=task, reason="going to sleep")
    sleeper.say(messages.DeviceState, online=False, examples=5)
    assert sleeper.hear(messages.Task, phase="evaluate", seconds=1.0, optional=True) is None
    sleeper.say(messages.DeviceState, online=True, examples=5, incarnation=2)
    evaluation = sleeper.hear(messages.Task, phase="evaluate").task
    metrics = {"loss": 1.0, "accuracy": 0.5}
    sleeper.say(messages.Update, task=evaluation, round=1, num_examples=5, metrics=metrics, incarnation=2)
    assert sleeper.hear(messages.Settled, task=evaluation).accepted
    assert rig.finish(coordinator) == 0, rig.log[-2000:]
    sleeper.link.close()


def test_two_coordinators(broker_url: str, make_rig: Fixture) -> None:
    first, second = make_rig(broker_url), make_rig(broker_url)
    first.configure(start_devices=1)
    second.fleet = first.fleet
    second.configure(start_devices=1)
    one = first.start_coordinator()
    wait_for(lambda: "connected" in first.log, what="the first one")
    assert second.finish(second.start_coordinator()) == 76
    assert "received word of one in epoch 1" in second.log
    same_folder = first.start_coordinator()
    assert first.finish(same_folder) == 76
    assert "which another process uses" in first.log
    assert one.poll() is None
    one.send_signal(signal.SIGTERM)
    assert first.finish(one) == 0
    assert first.log.count("connected, epoch") == 1
    # It has said goodbye: the fleet may have another one, in a higher epoch.
    other = second.start_coordinator()
    wait_for(lambda: "connected, epoch 2" in second.log, what="the second one")
    other.kill()


def test_a_coordinator_that_was_replaced_ends(broker_url: str, make_rig: Fixture) -> None:
    rig = make_rig(broker_url)
    rig.configure(start_devices=1)
    coordinator = rig.start_coordinator()
    wait_for(lambda: "connected" in rig.log, what="the coordinator")
    events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
    with closing(
        MqttLink(Broker.from_url(broker_url), client_id=f"{rig.fleet}-x", will=None, on_event=events.put)
    ) as link:
        assert isinstance(events.get(timeout=10), Connected)
        usurper = messages.CoordinatorState(online=True, epoch=9, run="another")
        link.publish(Topics(rig.fleet).coordinator, messages.encode(usurper), retain=True)
        assert rig.finish(coordinator) == 76
        link.publish(Topics(rig.fleet).coordinator, b"", retain=True)
    assert "another one in epoch 9" in rig.log


class RestartableMosquitto:
    """A Mosquitto on one port; without persistence it forgets everything when it is killed."""

    def __init__(self, folder: Path, *, persistent: bool) -> None:
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true"]
        if persistent:
            (folder / "data").mkdir()
            (folder / "data").chmod(0o777)
            lines += ["persistence true", f"persistence_location {folder / 'data'}/"]
            lines += ["autosave_interval 1", "autosave_on_changes true", "user root"]
        self.config.write_text("\n".join(lines) + "\n")
        self.process = self._start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def _start(self) -> subprocess.Popen[bytes]:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            pytest.skip("mosquitto is not installed")
        process = subprocess.Popen(
            [program, "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert wait_for_port(self.port, process)
        return process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self, *, after_seconds: float = 0.0) -> None:
        self.kill()
        time.sleep(after_seconds)
        self.process = self._start()


@pytest.fixture(params=[False, True], ids=["forgetful", "persistent"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RestartableMosquitto]:
    broker = RestartableMosquitto(tmp_path, persistent=request.param)
    yield broker
    broker.kill()


@pytest.mark.slow
def test_a_broker_that_is_killed_again_and_again(
    broker: RestartableMosquitto, make_rig: Fixture, expected_model: Fixture
) -> None:
    rig = make_rig(broker.url)
    rig.configure(start_devices=5, minimum_devices=5, rounds=3)
    rig.start_devices(5, work_seconds=0.5)
    coordinator = rig.start_coordinator()
    for _ in range(4):
        before = counted_events(rig)
        wait_for(lambda before=before: counted_events(rig) > before, seconds=60, what="an update")
        broker.restart(after_seconds=0.3)
    assert rig.finish(coordinator) == 0, rig.log[-3000:]
    assert [len(devices) for devices in rig.counted()] == [5, 5, 5]
    np.testing.assert_allclose(rig.final["dense/bias"], expected_model(rig.counted()), rtol=1e-6)


class Hostile:
    """A device that follows no rules."""

    def __init__(self, url: str, fleet: str, device: str) -> None:
        self.device, self.topics, self.counter = device, Topics(fleet), 0
        self.events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self.link = MqttLink(Broker.from_url(url), client_id=device, will=None, on_event=self.events.put)
        assert isinstance(self.events.get(timeout=10), Connected)
        self.link.subscribe([self.topics.down(device, "+")])
        self.say(messages.DeviceState, online=True, examples=5)

    def say(self, kind: Any, *, topic: str = "", counter: int | None = None, **fields: Any) -> bytes:
        self.counter += 1
        stamp = {
            "device": self.device,
            "incarnation": 1,
            "counter": self.counter if counter is None else counter,
        }
        message = kind(**(stamp | fields))
        place = "state" if kind is messages.DeviceState else f"up/{messages.kind_of(message)}"
        at = topic or f"{self.topics.root}/d/{self.device}/{place}"
        payload = messages.encode(message)
        self.link.publish(at, payload, retain=kind is messages.DeviceState)
        return payload

    def hear(self, kind: type, *, seconds: float = 20.0, optional: bool = False, **fields: Any) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                event = self.events.get(timeout=max(until - time.monotonic(), 0.01))
            except queue.Empty:
                break
            if isinstance(event, Received):
                place = self.topics.parse(event.topic)
                assert place is not None
                message = messages.decode(place, event.payload)
                if isinstance(message, kind) and all(getattr(message, k) == v for k, v in fields.items()):
                    return message
        if optional:
            return None
        raise AssertionError(f"no {kind.__name__} with {fields}")

    def send(self, update: bytes, task: str, grant: messages.Grant) -> None:
        for number in grant.chunks:
            data = list(blobs.cut(update, blobs.CHUNK_BYTES))[number]
            self.counter += 1
            header = messages.ChunkHeader(
                device=self.device,
                incarnation=1,
                counter=self.counter,
                task=task,
                sha256=grant.sha256,
                chunk=number,
            )
            self.link.publish(
                self.topics.up(self.device, "chunk"), messages.encode(messages.Chunk(header, data))
            )


REFUSED = {
    "a blob of 2 GB": (
        {"weights": messages.BlobReference(sha256="a" * 64, size=1 << 31, codec="f32")},
        "at most",
    ),
    "no weights": ({"weights": None}, "Expected weights"),
    "not tensors": (
        {"weights": messages.BlobReference(sha256="a" * 64, size=9, codec="file")},
        "a codec out of",
    ),
    "no samples": ({"num_examples": 0}, "num_examples"),
    "impossible samples": ({"num_examples": 2**50}, "num_examples"),
    "no metrics": ({"metrics": {}}, "train_loss"),
    "another round": ({"round": 7}, "of round 1, received 7"),
}
GOOD_BLOB = messages.BlobReference(sha256="b" * 64, size=1000, codec="f32")


@pytest.mark.parametrize("case", REFUSED)
def test_an_update_that_cannot_be_is_refused_alone(case: str, mosquitto: str, make_rig: Fixture) -> None:
    rig = make_rig(mosquitto)
    rig.configure(start_devices=3, minimum_devices=3, rounds=1)
    rig.start_devices(2)
    coordinator = rig.start_coordinator()
    evil = Hostile(mosquitto, rig.fleet, "evil")
    task = evil.hear(messages.Task)
    fields, reason = REFUSED[case]
    update = {"round": 1, "num_examples": 5, "metrics": {"train_loss": 1.0}, "weights": GOOD_BLOB} | fields
    evil.say(messages.Update, task=task.task, **update)
    settled = evil.hear(messages.Settled, task=task.task)
    assert not settled.accepted
    assert reason in settled.reason
    evaluation = evil.hear(messages.Task, phase="evaluate")
    evil.say(messages.Failed, task=evaluation.task, reason="no")
    assert rig.finish(coordinator) == 0, rig.log[-2000:]
    assert rig.counted() == [("d0000", "d0001")]
    evil.link.close()


@pytest.mark.parametrize("spoilt", ["nan", "shape", "names", "garbage", "digest"])
def test_weights_that_cannot_be_are_refused_alone(
    spoilt: str, mosquitto: str, make_rig: Fixture, expected_model: Fixture
) -> None:
    rig = make_rig(mosquitto)
    rig.configure(start_devices=3, minimum_devices=3, rounds=1)
    rig.start_devices(2)
    coordinator = rig.start_coordinator()
    evil = Hostile(mosquitto, rig.fleet, "evil")
    task = evil.hear(messages.Task)
    weights = {"dense/kernel": np.zeros((2, 20_000), np.float32), "dense/bias": np.zeros(3, np.float32)}
    if spoilt == "nan":
        weights["dense/bias"][1] = np.nan
    elif spoilt == "shape":
        weights["dense/bias"] = np.zeros(4, np.float32)
    elif spoilt == "names":
        weights["dense/bigs"] = weights.pop("dense/bias")
    data = tensors.encode(weights) if spoilt != "garbage" else random.Random(0).randbytes(70_000)
    named = blobs.reference(data, codec="f32")
    if spoilt == "digest":
        named = messages.BlobReference(sha256="c" * 64, size=len(data), codec="f32")
    evil.say(
        messages.Update,
        task=task.task,
        round=1,
        num_examples=5,
        metrics={"train_loss": 1.0},
        weights=named,
    )
    for _ in range(3 if spoilt == "digest" else 1):
        evil.send(data, task.task, evil.hear(messages.Grant))
    assert not evil.hear(messages.Settled, task=task.task).accepted
    evil.say(messages.Failed, task=evil.hear(messages.Task, phase="evaluate").task, reason="no")
    assert rig.finish(coordinator) == 0, rig.log[-2000:]
    np.testing.assert_allclose(rig.final["dense/bias"], expected_model([("d0000", "d0001")]), rtol=1e-6)
    assert not list((rig.folder / "coordinator" / "updates").iterdir())
    evil.link.close()


def test_a_device_cannot_speak_for_another(
    mosquitto: str, make_rig: Fixture, expected_model: Fixture
) -> None:
    """Forged announcements for another device's task, failures, replays, and an incarnation that is over."""
    rig = make_rig(mosquitto)
    rig.configure(start_devices=3, minimum_devices=3, rounds=1)
    rig.start_devices(2, work_seconds=1.0)
    coordinator = rig.start_coordinator()
    evil = Hostile(mosquitto, rig.fleet, "evil")
    own = evil.hear(messages.Task).task
    victim = own.replace("evil", "d0000")
    evil.say(
        messages.Update, task=victim, round=1, num_examples=5, metrics={"train_loss": 1.0}, weights=GOOD_BLOB
    )
    assert not evil.hear(messages.Settled, task=victim).accepted
    evil.say(messages.Failed, task=victim, reason="forged")
    evil.say(messages.Accepted, task=victim)
    evil.say(messages.Failed, task=victim, reason="x", topic=f"{evil.topics.root}/d/d0000/up/failed")
    evil.say(messages.DeviceState, incarnation=0, online=False)
    repeated = evil.say(messages.Progress, task=own, step="train", fraction=0.25)
    for _ in range(5):
        evil.link.publish(evil.topics.up("evil", "progress"), repeated)
    evil.say(messages.Failed, task=own, reason="done")
    evil.say(messages.Failed, task=evil.hear(messages.Task, phase="evaluate").task, reason="no")
    assert rig.finish(coordinator) == 0, rig.log[-2000:]
    assert rig.counted() == [("d0000", "d0001")]
    np.testing.assert_allclose(rig.final["dense/bias"], expected_model(rig.counted()), rtol=1e-6)
    progress = [e for e in rig.events if e["event"] == "device_progress" and e["device"] == "evil"]
    assert len(progress) == 1, "a repetition is heard once"
    evil.link.close()


def test_garbage_on_every_topic(broker_url: str, make_rig: Fixture, expected_model: Fixture) -> None:
    rig = make_rig(broker_url)
    rig.configure(start_devices=3, minimum_devices=3, rounds=2)
    rig.start_devices(3, work_seconds=0.3)
    coordinator = rig.start_coordinator()
    generator = random.Random(5)
    topics = Topics(rig.fleet)
    events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
    with closing(
        MqttLink(Broker.from_url(broker_url), client_id=f"{rig.fleet}-g", will=None, on_event=events.put)
    ) as link:
        assert isinstance(events.get(timeout=10), Connected)
        kinds = [kind for kind in messages.CLASSES if kind.startswith(("up/", "down/"))] + [
            "up/nothing",
            "state",
        ]
        seeds = [
            b"",
            b"{}",
            b"null",
            b"[" * 3000,
            b'{"kind":"update"}',
            b"\xff" * 300,
            b"\x00\x00",
            b"\xff\xff",
        ]
        for _ in range(150):
            for device in ("d0000", "stranger", "BAD", ""):
                payload = generator.choice([*seeds, generator.randbytes(generator.randrange(2000))])
                link.publish(f"{topics.root}/d/{device}/{generator.choice(kinds)}", payload)
        huge = json.dumps(
            {"kind": "state", "device": "stranger", "incarnation": 1, "counter": 1, "online": True}
        )
        link.publish(topics.state("stranger"), huge[:-1].encode() + b',"agent":"' + b"a" * 200_000 + b'"}')
        assert rig.finish(coordinator) == 0, rig.log[-2000:]
    assert [len(devices) for devices in rig.counted()] == [3, 3]
    np.testing.assert_allclose(rig.final["dense/bias"], expected_model(rig.counted()), rtol=1e-6)


def test_what_a_folder_must_not_be_used_for(mosquitto: str, make_rig: Fixture) -> None:
    """Another model, a strategy's state that the disk has spoilt, and a port that is taken."""
    rig = make_rig(mosquitto)
    rig.configure(start_devices=2, rounds=1, strategy=StrategyConfig(name="FedAdam"))
    rig.start_devices(2)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    assert rig.finish(rig.start_coordinator(numbers=60)) == 72
    assert "was begun with, received another one" in rig.log
    assert "Give each model a folder of its own." in rig.log
    (rig.folder / "coordinator" / "strategy-1.safetensors").write_bytes(b"spoilt")
    assert rig.finish(rig.start_coordinator()) == 73
    assert "Expected the strategy's state after round 1, received" in rig.log
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        rig.configure(start_devices=2, rounds=1, metrics_port=taken.getsockname()[1])
        assert rig.finish(rig.start_coordinator()) == 72
    assert "Expected a free metrics_port" in rig.log


def test_what_devices_took_before_a_restart_is_their_deadline_after_it(
    mosquitto: str, make_rig: Fixture
) -> None:
    rig = make_rig(mosquitto)
    own = {"start_devices": 2, "device_factor": 5.0, "device_seconds": 0.1}
    rig.configure(rounds=1, **own)
    quick = rig.start_devices(2)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    quick.kill()
    quick.wait()
    # The same two devices, which said that they took 0.1 s, now take at least 5.
    rig.devices = 0
    rig.start_devices(2, work_seconds=10.0)
    rig.configure(rounds=2, **own)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    assert rig.counted() == [("d0000", "d0001"), ()]
    assert "train closed: all ended, 0 of 2" in rig.log
