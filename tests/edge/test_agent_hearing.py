"""Whatever arrives, the agent goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.edge.agent import Agent
from hedgerow.edge.assignment import Usage
from hedgerow.edge.config import AgentConfig
from hedgerow.protocol import messages
from hedgerow.protocol.link import Connected, Disconnected, LinkEvent, Received
from hedgerow.protocol.messages import CLASSES, BlobReference, CoordinatorState, Task
from hedgerow.protocol.signatures import SigningKey
from hedgerow.protocol.topics import Topics

TOPICS = Topics("farm")
BLOB = BlobReference(sha256="a" * 64, size=70_000)


class FakeLink:
    """Notes what is published; a test speaks through `hear`."""

    def __init__(self, *_: Any, on_event: Callable[[LinkEvent], None], **__: Any) -> None:
        self.hear = on_event
        self.published: SimpleQueue[tuple[str, bytes]] = SimpleQueue()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.published.put((topic, payload))

    def subscribe(self, topics: list[str]) -> None:
        assert len(topics) <= 8

    unsubscribe = subscribe

    def close(self, *, timeout_seconds: float = 2.0) -> None:
        pass


class IdleWorker:
    usage = Usage()
    resident_mib = 0.0

    def __init__(self, *_: Any) -> None:
        pass

    def start(self, assignment: Any) -> None:
        pass

    def stop(self, task: str) -> None:
        pass

    def close(self) -> None:
        pass


class RunningAgent:
    """An agent in a thread, its link in the hands of the test."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        config = AgentConfig(
            device="d1",
            fleet="farm",
            broker="mqtt://localhost",
            folder=str(folder),
            samples=str(folder),
            **fields,
        )
        made: SimpleQueue[FakeLink] = SimpleQueue()

        def connect(*args: Any, **fields: Any) -> FakeLink:
            made.put(link := FakeLink(*args, **fields))
            return link

        self.agent = Agent(config, connect=connect, employ=IdleWorker)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.link = made.get(timeout=10)

    def _run(self) -> None:
        try:
            self.agent.run()
        except BaseException as error:
            self.error = error
            raise

    def wait_for(self, kind: str) -> bytes:
        while True:
            topic, payload = self.link.published.get(timeout=10)
            if topic == TOPICS.up("d1", kind):
                return payload

    def stop(self) -> None:
        self.agent.stop()
        self.thread.join(10)
        assert self.error is None


def test_a_channel_that_was_cleared_offers_nothing_and_nonsense_on_it_is_reported(tmp_path: Path) -> None:
    SigningKey.generate().verify_key.write(tmp_path / "key.pem")
    running = RunningAgent(tmp_path / "state", channel="stable", release_key=str(tmp_path / "key.pem"))

    def refused_after(payload: bytes) -> str:
        running.link.hear(Received(TOPICS.release("stable"), payload, False))
        running.link.hear(Connected())
        states = []
        for _ in range(2 if payload else 1):
            while (published := running.link.published.get(timeout=10))[0] != TOPICS.state("d1"):
                pass
            states.append(msgspec.json.decode(published[1])["capabilities"]["release_refused"])
        return str(states[-1])

    running.link.hear(Connected())
    running.link.published.get(timeout=10)
    assert refused_after(b"") == ""
    assert "release manifest" in refused_after(b"nonsense")
    running.stop()


def a_task(name: str, counter: int) -> bytes:
    return messages.encode(
        Task(
            device="d1",
            epoch=99,
            counter=counter,
            task=name,
            round=1,
            phase="train",
            program=BLOB,
            weights=BLOB,
        )
    )


_topics = st.one_of(
    st.sampled_from(
        [TOPICS.coordinator, TOPICS.release("stable"), TOPICS.state("d1"), "", "hedgerow/v1/farm"]
    ),
    st.sampled_from(sorted(CLASSES)).map(lambda kind: TOPICS.down("d1", kind.rpartition("/")[2])),
    st.builds(TOPICS.down, st.sampled_from(["d1", "d2"]), st.text(max_size=6)),
    st.builds(
        TOPICS.chunk, st.sampled_from(["a" * 64, "b" * 64, "../../hedgerow-climbed"]), st.integers(0, 1 << 70)
    ),
    st.text(max_size=40),
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("a" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from(
    ["kind", "device", "epoch", "counter", "task", "round", "phase", "program", "weights", "config",
     "deadline_seconds", "sha256", "chunks", "accepted", "reason", "online"]
)  # fmt: skip
_spoiled_messages = st.builds(lambda extra: _overlaid(extra), st.dictionaries(_fields, _values, max_size=4))
_payloads = st.one_of(
    st.binary(max_size=80), _spoiled_messages, st.just(b"[" * 10_000), st.just(bytes(65_536))
)


def _overlaid(extra: dict[str, Any]) -> bytes:
    """A valid task with some fields replaced by nonsense; NaN and infinities are left to the JSON encoder."""
    import json

    return json.dumps(json.loads(a_task("t", 5)) | extra).encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_topics, _payloads, st.booleans()), max_size=25))
def test_nothing_that_arrives_stops_the_agent(arrivals: list[tuple[str, bytes, bool]]) -> None:
    with TemporaryDirectory() as folder:
        running = RunningAgent(Path(folder))
        running.link.hear(Connected())
        running.link.hear(Received(TOPICS.down("d1", "task"), a_task("known", 1), False))
        running.wait_for("accepted")
        for topic, payload, retained in arrivals:
            running.link.hear(Received(topic, payload, retained))
        running.link.hear(Disconnected("gone"))
        running.link.hear(Connected())
        online = messages.encode(CoordinatorState(online=True, epoch=99))
        running.link.hear(Received(TOPICS.coordinator, online, True))
        running.link.hear(Received(TOPICS.down("d1", "task"), a_task("last", 2**52), False))
        while b'"last"' not in running.wait_for("accepted"):
            pass
        running.stop()
        assert not list(Path(folder).parent.glob("hedgerow-climbed*"))
