"""A fleet of simulated devices in one process: real protocol and sessions, no disks, cheap training.

    python benchmarks/simulated_fleet.py --broker mqtt://127.0.0.1:1883 --fleet f --devices 1000

Every device runs the agent's own session (`hedgerow.edge.session`) over an MQTT connection of its own, all in
one epoll loop: paho's threaded loop ends at 338 clients a process. "Training" adds numbers that depend on the
device and the round alone, so that any run can be checked against arithmetic.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import os
import random
import selectors
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from hedgerow.edge.result import Result
from hedgerow.edge.session import Session, events, step
from hedgerow.errors import MessageError
from hedgerow.protocol import blobs, messages, tensors
from hedgerow.protocol.link import Broker
from hedgerow.protocol.topics import Topics

BACKOFF_SECONDS = (0.2, 5.0)


def examples_of(device: str) -> int:
    """How many samples a simulated device has: 1 to 100, from its name."""
    return 1 + hashlib.sha256(device.encode()).digest()[0] % 100


def delta(device: str, round_: int) -> float:
    """What a simulated device adds to every weight in a round: a multiple of 1/256 below 1."""
    return hashlib.sha256(f"{device} {round_}".encode()).digest()[0] / 256


@dataclass
class Shelf:
    """Chunks that any device has received; the same bytes are held once for all."""

    chunks: dict[tuple[str, int], bytes] = field(default_factory=dict)
    weights: dict[str, tensors.Weights] = field(default_factory=dict)

    def load(self, blob: messages.BlobReference) -> tensors.Weights:
        if blob.sha256 not in self.weights:
            data = b"".join(self.chunks[blob.sha256, number] for number in range(blob.chunks))
            assert blobs.reference(data).sha256 == blob.sha256, "a blob with another digest"
            self.weights.clear()
            self.weights[blob.sha256] = tensors.decode(data)
        return self.weights[blob.sha256]


class Corked:
    """A socket that sends what one turn of the loop has said together: a packet each would wake the broker.

    Args:
        connection: The socket.
        waits: Told when there is something to send.
    """

    def __init__(self, connection: Any, waits: Any) -> None:
        self._connection, self._waits, self._out = connection, waits, bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def send(self, data: bytes) -> int:
        if not self._out:
            self._waits(self)
        self._out += data
        return len(data)

    def flush(self) -> bool:
        """Sends what it can; whether that was all."""
        try:
            while self._out:
                del self._out[: self._connection.send(self._out)]
        except BlockingIOError:
            return False
        except OSError:
            self._out.clear()
        return True

    def close(self) -> None:
        self.flush()
        self._connection.close()


class Client(mqtt.Client):
    """paho with such a socket."""

    waits: Any = None

    def _create_socket_connection(self) -> Any:
        return Corked(super()._create_socket_connection(), self.waits)


class Device:
    """One simulated device."""

    def __init__(self, name: str, fleet: Fleet) -> None:
        self.name = name
        self.fleet = fleet
        self.have: dict[str, set[int]] = {}
        self.results: dict[str, bytes] = {}
        self.session = Session.restored(topics=fleet.topics, device=name, incarnation=fleet.incarnation)
        self.client = self._client()
        self.delay = BACKOFF_SECONDS[0]

    def _client(self) -> mqtt.Client:
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=self.name, clean_session=True, reconnect_on_failure=False
        )
        client.waits = lambda connection: self.fleet.corked.append((self, connection))
        state = messages.encode(self._state(events.Announce(online=False, counter=0, epoch=0, tasks=())))
        client.will_set(self.fleet.topics.state(self.name), state, qos=1, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_socket_register_write = lambda c, u, s: self.fleet.watch(self, s, write=True)
        client.on_socket_unregister_write = lambda c, u, s: self.fleet.watch(self, s, write=False)
        client.on_socket_close = lambda c, u, s: self.fleet.unwatch(s)
        return client

    def connect(self) -> None:
        try:
            self.client.connect(self.fleet.broker.host, self.fleet.broker.port, keepalive=60)
        except OSError:
            self._try_again()
            return
        connection = self.client.socket()
        connection.setsockopt(6, 1, 1)  # TCP_NODELAY
        self.fleet.watch(self, connection, write=self.client.want_write())

    def _try_again(self) -> None:
        self.fleet.at(time.monotonic() + random.uniform(0.5, 1) * self.delay, self.connect)
        self.delay = min(2 * self.delay, BACKOFF_SECONDS[1])

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            return
        self.delay = BACKOFF_SECONDS[0]
        self.advance(events.LinkUp())

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.advance(events.LinkDown())
        if not self.fleet.stopping:
            self._try_again()

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        place = self.fleet.topics.parse(message.topic)
        if place is None:
            return
        if place.kind == "blob":
            self.advance(events.ChunkCame(place.sha256, place.chunk, bytes(message.payload)))
            return
        try:
            heard = messages.decode(place, bytes(message.payload))
        except MessageError:
            return
        if isinstance(heard, messages.CoordinatorState | messages.DownMessage):
            self._note(heard)
            self.advance(events.Heard(heard))

    def _note(self, heard: messages.Message) -> None:
        match heard:
            case messages.Task(task=task):
                self.fleet.note("asked", device=self.name, task=task, at=time.time())
            case messages.Settled(task=task, accepted=accepted, reason=reason):
                self.fleet.note("settled", device=self.name, task=task, accepted=accepted, reason=reason)
            case messages.Cancel(task=task):
                self.fleet.note("cancelled", device=self.name, task=task)

    def tick(self) -> None:
        self.advance(events.Tick(time.monotonic()))

    def advance(self, event: Any) -> None:
        pending = deque([events.Tick(time.monotonic()), event])
        while pending:
            self.session, actions = step(self.session, pending.popleft())
            for action in actions:
                answer = self._perform(action)
                if answer is not None:
                    pending.append(answer)
        if self.session.wake_at < float("inf"):
            self.fleet.wake(self, self.session.wake_at)

    def _perform(self, action: Any) -> Any:
        topics = self.fleet.topics
        match action:
            case events.Publish(message=message):
                self._say(message)
            case events.Announce():
                self.client.publish(
                    topics.state(self.name), messages.encode(self._state(action)), qos=1, retain=True
                )
            case events.Subscribe(topics=names):
                for start in range(0, len(names), 8):
                    self.client.subscribe([(name, 1) for name in names[start : start + 8]])
            case events.Unsubscribe(topics=names):
                self.client.unsubscribe(list(names))
            case events.LookUp(blob=blob):
                have = self.have.get(blob.sha256, set())
                return events.LookedUp(blob.sha256, tuple(n for n in range(blob.chunks) if n not in have))
            case events.KeepChunk(blob=blob, number=number, data=data):
                shelf = self.fleet.shelf.chunks
                kept = shelf.setdefault((blob.sha256, number), data)
                assert kept == data, "two chunks of one name"
                self.have.setdefault(blob.sha256, set()).add(number)
                return events.ChunkKept(blob.sha256, number)
            case events.Prune(keep=keep):
                self.have = {sha256: have for sha256, have in self.have.items() if sha256 in keep}
            case events.Work(task=task):
                self.fleet.at(time.monotonic() + self.fleet.seconds(), lambda: self._work(task))
            case events.Spool(result=result):
                digest = "" if result.weights is None else result.weights.sha256
                self.fleet.note("finished", device=self.name, task=result.task, sha256=digest)
                return events.Spooled(result)
            case events.SendChunk(header=header, blob=blob):
                data = self.results.get(header.task, b"")
                start = header.chunk * blob.chunk_bytes
                self._say(messages.Chunk(header, data[start : start + blob.chunk_bytes]))
            case events.Forget(task=task):
                self.results.pop(task, None)
        return None

    def _work(self, task: messages.Task) -> None:
        job = self.session.job
        if job is None or job.task.task != task.task:
            return
        metrics, weights, count = {"loss": 1.0 / task.round, "accuracy": 0.5}, None, examples_of(self.name)
        if task.phase == "train":
            step_ = np.float32(delta(self.name, task.round))
            new = {name: value + step_ for name, value in self.fleet.shelf.load(task.weights).items()}
            data = tensors.encode(new, task.codec)
            self.results[task.task] = data
            weights, metrics = blobs.reference(data, codec=task.codec), {"train_loss": 1.0 / task.round}
        result = Result(
            task=task.task,
            round=task.round,
            num_examples=count,
            metrics=metrics,
            weights=weights,
            seconds=0.1,
        )
        self.advance(events.WorkFinished(result))

    def _say(self, message: Any) -> None:
        topic = self.fleet.topics.up(self.name, messages.kind_of(message))
        self.client.publish(topic, messages.encode(message), qos=1)

    def _state(self, action: events.Announce) -> messages.DeviceState:
        return messages.DeviceState(
            device=self.name,
            incarnation=self.session.incarnation,
            counter=action.counter,
            epoch=action.epoch,
            online=action.online,
            agent="simulated",
            runtime="none",
            examples=examples_of(self.name),
            tasks=action.tasks,
        )


class Fleet:
    """All simulated devices of one process, in one loop."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        devices: int,
        *,
        work_seconds: float,
        first: int,
        history: IO[str] | None,
    ) -> None:
        self.broker = broker
        self.topics = Topics(name)
        self.shelf = Shelf()
        self.incarnation = int(time.time())
        self.stopping = False
        self.connected = 0
        self._work_seconds = work_seconds
        self._history = history
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Any]] = []
        self._woken: dict[str, float] = {}
        self._order = 0
        self.corked: list[tuple[Device, Corked]] = []
        self.devices = [Device(f"d{number:04d}", self) for number in range(first, first + devices)]

    def seconds(self) -> float:
        return random.uniform(0.5, 1.5) * self._work_seconds

    def note(self, what: str, **fields: Any) -> None:
        if self._history is not None:
            self._history.write(json.dumps({"what": what, **fields}) + "\n")
            self._history.flush()

    def at(self, when: float, action: Any) -> None:
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, action))

    def wake(self, device: Device, when: float) -> None:
        known = self._woken.get(device.name, 0.0)
        if not time.monotonic() < known <= when:
            self._woken[device.name] = when
            self.at(when, device.tick)

    def watch(self, device: Device, connection: Any, *, write: bool) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        try:
            self._selector.modify(connection, wanted, device)
        except KeyError:
            self._selector.register(connection, wanted, device)

    def flush(self) -> None:
        """Sends what this turn has said."""
        corked, self.corked = self.corked, []
        for device, connection in corked:
            if not connection.flush():
                self.corked.append((device, connection))

    def unwatch(self, connection: Any) -> None:
        try:
            self._selector.unregister(connection)
        except (KeyError, ValueError):
            return

    def run(self) -> None:
        for number, device in enumerate(self.devices):
            self.at(time.monotonic() + number * 0.002, device.connect)
        misc = time.monotonic()
        while not self.stopping:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            self.flush()
            until = self._timers[0][0] - now if self._timers else 1.0
            if self.corked:
                until = min(until, 0.005)
            for key, mask in self._selector.select(min(max(until, 0.0), 1.0)):
                client = key.data.client
                if mask & selectors.EVENT_READ:
                    client.loop_read()
                if mask & selectors.EVENT_WRITE and client.socket() is not None:
                    client.loop_write()
            self.flush()
            if now - misc > 5:
                misc = now
                for device in self.devices:
                    if device.client.socket() is not None:
                        device.client.loop_misc()
        for device in self.devices:
            device.client.disconnect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--fleet", required=True)
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first device")
    parser.add_argument("--work-seconds", type=float, default=0.05)
    parser.add_argument("--history", type=Path)
    arguments = parser.parse_args()
    history = arguments.history.open("a") if arguments.history else None
    fleet = Fleet(
        Broker.from_url(arguments.broker),
        arguments.fleet,
        arguments.devices,
        work_seconds=arguments.work_seconds,
        first=arguments.first,
        history=history,
    )

    def stop(*_: object) -> None:
        fleet.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    fleet.run()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
