"""A broker, a coordinator that follows a script, and agents as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import iotcore
import numpy as np
import pytest

from hedgerow.edge.config import AgentConfig
from hedgerow.protocol import blobs, messages
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.messages import BlobReference
from hedgerow.protocol.topics import Topics

FLEET = "farm"
_EXPORT = """
import sys
from pathlib import Path
import keras, numpy, safetensors.numpy, tensorflow as tf
from hedgerow.models import export_trainable

keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(),
    keras.layers.Dense(2048, activation="relu"), keras.layers.Dense(3, activation="softmax")])
export_trainable(model, Path(sys.argv[1]), batch_size=16, loss="sparse_categorical_crossentropy")
weights = {weight.path: weight.numpy() for weight in model.weights}
safetensors.numpy.save_file(weights, sys.argv[2])
x = numpy.random.default_rng(3).normal(size=(20, 8, 8, 1)).astype("float32")
files, outputs = {}, {}
for name in ("first", "second"):
    files[name] = numpy.frombuffer(tf.lite.TFLiteConverter.from_keras_model(model).convert(), numpy.uint8)
    outputs[name] = model.predict(x, verbose=0)
    model.set_weights([weight[::-1] * 2 for weight in model.get_weights()])
numpy.savez(sys.argv[3], x=x, **files, **{f"{name}_output": outputs[name] for name in outputs})
"""


@dataclass(frozen=True, slots=True)
class Model:
    """A trainable file, the weights to start from (1.2 MiB: 19 chunks), and two inference files.

    `inference` has examples `x`, the bytes of the files `first` and `second`, and what Keras says of `x` as
    `first_output` and `second_output`.
    """

    program: bytes
    weights: bytes
    inference: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    program, weights = folder / "model.tflite", folder / "model.safetensors"
    inference = folder / "inference.npz"
    command = [sys.executable, "-c", _EXPORT, str(program), str(weights), str(inference)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return Model(program.read_bytes(), weights.read_bytes(), dict(np.load(inference)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class ScriptedCoordinator:
    """Says what a test tells it to, and notes what it hears."""

    url: str
    epoch: int = 1
    heard: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topics = Topics(FLEET)
        self._counter = 0
        self._queue: SimpleQueue[LinkEvent] = SimpleQueue()
        self._link = MqttLink(
            Broker.from_url(self.url), client_id="coordinator", will=None, on_event=self._queue.put
        )
        assert isinstance(self._queue.get(timeout=10), Connected)
        self._link.subscribe([self.topics.states, self.topics.uplinks])
        self.start_epoch(self.epoch)

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        state = messages.CoordinatorState(online=True, epoch=epoch)
        self._link.publish(self.topics.coordinator, messages.encode(state), retain=True)

    def offer(self, data: bytes, *, codec: str = "file", but: tuple[int, ...] = ()) -> BlobReference:
        """Publishes a blob's chunks, retained, except `but`."""
        blob = blobs.reference(data, codec=codec)
        for number, chunk in enumerate(blobs.cut(data, blob.chunk_bytes)):
            if number not in but:
                self._link.publish(self.topics.chunk(blob.sha256, number), chunk, retain=True)
        return blob

    def tell(self, kind: type[Any], device: str, **fields: Any) -> None:
        self._counter += 1
        message = kind(device=device, epoch=self.epoch, counter=self._counter, **fields)
        self._link.publish(self.topics.down(device, messages.kind_of(message)), messages.encode(message))

    def release(self, channel: str, signed: bytes) -> None:
        self._link.publish(self.topics.release(channel), signed, retain=True)

    def wait(self, kind: Any, *, seconds: float = 15.0, **fields: Any) -> Any:
        """The next message of that kind whose fields have these values."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                event = self._queue.get(timeout=max(until - time.monotonic(), 0.01))
            except Empty:
                break
            if not isinstance(event, Received):
                continue
            place = self.topics.parse(event.topic)
            assert place is not None
            message = messages.decode(place, event.payload)
            self.heard.append(message)
            if isinstance(message, kind) and all(getattr(message, k) == v for k, v in fields.items()):
                return message
        raise AssertionError(f"no {kind} with {fields}; heard {self.heard[-10:]}")

    def collect(self, update: messages.Update, *, at_once: int = 4) -> bytes:
        """Grants an update's chunks until all are here, and settles it."""
        blob = update.weights
        assert blob is not None
        parts: dict[int, bytes] = {}
        for start in range(0, blob.chunks, at_once):
            numbers = tuple(range(start, min(start + at_once, blob.chunks)))
            self.tell(messages.Grant, update.device, task=update.task, sha256=blob.sha256, chunks=numbers)
            while not all(number in parts for number in numbers):
                chunk = self.wait(messages.Chunk)
                parts[chunk.header.chunk] = chunk.data
        data = b"".join(parts[number] for number in sorted(parts))
        assert blobs.reference(data).sha256 == blob.sha256
        return data

    def settle(self, update: messages.Update) -> None:
        self.tell(messages.Settled, update.device, task=update.task, accepted=True)

    def close(self) -> None:
        self._link.close()


@dataclass
class RestartableBroker:
    """A broker on one port that can lose its memory, and the coordinators connected to it."""

    port: int = field(default_factory=free_port)
    coordinators: list[ScriptedCoordinator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._broker = self._start()

    def _start(self) -> iotcore.Broker:
        return iotcore.Broker(port=self.port, listen="127.0.0.1", max_payload_size=1 << 20).start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def coordinator(self, *, epoch: int = 1) -> ScriptedCoordinator:
        self.coordinators.append(ScriptedCoordinator(self.url, epoch))
        return self.coordinators[-1]

    def restart(self) -> None:
        self.disconnect()
        self._broker.stop()
        self._broker = self._start()

    def disconnect(self) -> None:
        while self.coordinators:
            self.coordinators.pop().close()

    def close(self) -> None:
        self.disconnect()
        self._broker.stop()


@pytest.fixture
def broker() -> Iterator[RestartableBroker]:
    broker = RestartableBroker()
    yield broker
    broker.close()


@pytest.fixture
def broker_url(broker: RestartableBroker) -> str:
    return broker.url


@pytest.fixture
def coordinator(broker: RestartableBroker) -> ScriptedCoordinator:
    return broker.coordinator()


@dataclass
class AgentProcess:
    """An agent that can be killed and started again."""

    config: AgentConfig
    path: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.path / "log").open("ab") as log:
            command = [sys.executable, "-m", "hedgerow.edge", "--config", str(self.path / "agent.toml")]
            self.process = subprocess.Popen(command, stderr=log, stdout=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> tuple[int, float]:
        """SIGTERM; the exit code and the seconds it took."""
        assert self.process is not None
        begun = time.monotonic()
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout=10), time.monotonic() - begun

    @property
    def log(self) -> str:
        return (self.path / "log").read_text()


MakeAgent = Callable[..., AgentProcess]


@pytest.fixture
def make_agent(tmp_path: Path, broker_url: str) -> Iterator[MakeAgent]:
    made: list[AgentProcess] = []

    def make(device: str = "d1", *, examples: int = 80, **fields: Any) -> AgentProcess:
        folder = tmp_path / device
        samples = folder / "samples"
        samples.mkdir(parents=True)
        generator = np.random.default_rng(7)
        for split, count in (("train", examples), ("test", 33)):
            y = generator.integers(0, 3, count).astype(np.int32)
            x = generator.normal(size=(count, 8, 8, 1)).astype(np.float32) + y[:, None, None, None]
            np.savez(samples / f"{split}.npz", x=x, y=y)
        config = AgentConfig(
            device=device, fleet=FLEET, broker=broker_url, folder="state", samples="samples", **fields
        )
        config.write(folder / "agent.toml")
        agent = AgentProcess(AgentConfig.load(folder / "agent.toml"), folder)
        made.append(agent)
        agent.start()
        return agent

    yield make
    for agent in made:
        if agent.process is not None and agent.process.poll() is None:
            agent.kill()
