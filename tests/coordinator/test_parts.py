"""The coordinator's small parts, each by hand: roster, inbox, downlink, selection, admission."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.coordinator.admission import Admission
from hedgerow.coordinator.config import CoordinatorConfig, StrategyConfig
from hedgerow.coordinator.downlink import IN_FLIGHT, Downlink
from hedgerow.coordinator.inbox import Acknowledged, Inbox
from hedgerow.coordinator.journal import Journal
from hedgerow.coordinator.records import PhaseRecord
from hedgerow.coordinator.replies import MeanReply
from hedgerow.coordinator.roster import WINDOW, News, ReplayWindow, Roster
from hedgerow.coordinator.selection import Eligibility, device_seconds, spares
from hedgerow.errors import CoordinatorConfigError, TensorsError, UpdateError
from hedgerow.protocol import tensors
from hedgerow.protocol.blobs import BlobStore
from hedgerow.protocol.link import Received
from hedgerow.protocol.messages import BlobReference, DeviceState, Update
from hedgerow.protocol.topics import Topics

BLOB = BlobReference(sha256="0" * 64, size=100, codec="f32")


def state(device: str = "a", *, incarnation: int = 1, epoch: int = 1, **fields: Any) -> DeviceState:
    return DeviceState(
        device=device, incarnation=incarnation, counter=1, epoch=epoch, **{"online": True, **fields}
    )


@given(st.lists(st.integers(0, 3000), max_size=200))
def test_a_counter_is_admitted_once_and_never_when_it_is_too_old(counters: list[int]) -> None:
    window, seen, highest = ReplayWindow(), set(), -1
    for counter in counters:
        expected = counter not in seen and counter > highest - WINDOW
        assert window.admit(counter) == expected
        if expected:
            seen.add(counter)
            highest = max(highest, counter)


def test_births_deaths_and_what_is_no_news() -> None:
    roster = Roster()
    assert roster.observe(state()) is News.BIRTH
    assert roster.observe(state()) is News.NOTHING, "a retained message that came again"
    assert roster.observe(state(epoch=2)) is News.BIRTH, "it has met a new epoch"
    assert roster.observe(state(incarnation=3)) is News.BIRTH
    assert roster.observe(state(incarnation=2, online=False)) is News.NOTHING, "the will of an earlier life"
    assert roster.online() == ("a",)
    assert roster.observe(state(incarnation=3, online=False, examples=0)) is News.DEATH
    assert roster.online() == ()
    old = Update(device="a", incarnation=2, counter=9, task="t", round=1, num_examples=1)
    new = Update(device="a", incarnation=4, counter=9, task="t", round=1, num_examples=1)
    assert [roster.is_news(old), roster.is_news(new), roster.is_news(new)] == [False, True, False]


def test_a_device_that_sleeps_may_be_asked_one_that_was_never_there_may_not() -> None:
    roster = Roster()
    roster.observe(state("awake"))
    roster.observe(state("asleep"))
    roster.observe(state("asleep", online=False))
    roster.observe(state("dead", online=False))
    assert roster.available(0.0) == ("awake",)
    assert roster.available(60.0) == ("asleep", "awake")
    assert roster.online() == ("awake",)


def test_the_inbox_is_bounded_and_one_wake_up_stands_for_many() -> None:
    inbox = Inbox(bytes_at_most=10)
    for payload in (b"123456", b"78901", b"2345"):
        inbox.put(Received("t", payload, retained=False))
    for _ in range(3):
        inbox.acknowledge()
    assert inbox.get(0) == Received("t", b"123456", retained=False)
    assert inbox.get(0) == Received("t", b"2345", retained=False)
    assert isinstance(inbox.get(0), Acknowledged)
    assert inbox.get(0) is None
    assert inbox.dropped == 1
    inbox.put(Received("t", b"1234567890", retained=False))
    assert inbox.get(0.1) is not None, "what was taken out made room"


class Wire:
    """A link that acknowledges when it is told to."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.unacknowledged = 0

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        self.published.append((topic, payload))
        self.unacknowledged += 1

    def subscribe(self, topics: list[str]) -> None: ...
    def unsubscribe(self, topics: list[str]) -> None: ...
    def close(self, *, timeout_seconds: float = 2.0) -> None: ...


def test_chunks_go_out_as_the_broker_takes_them_and_are_cleared_after_a_crash(tmp_path: Path) -> None:
    store, journal, wire, topics = BlobStore(tmp_path / "b"), Journal(tmp_path), Wire(), Topics("f")
    blob, other = store.put(bytes(40 * 65536)), store.put(b"other")
    downlink = Downlink(wire, topics, store, journal)
    downlink.offer(blob)
    downlink.offer(blob)
    downlink.pump()
    assert len(wire.published) == IN_FLIGHT
    while not downlink.idle:
        wire.unacknowledged = 0
        downlink.pump()
    assert [topic for topic, _ in wire.published] == [topics.chunk(blob.sha256, n) for n in range(40)]
    assert downlink.bytes_sent == 40 * 65536
    wire.published.clear()
    downlink.repair(blob.sha256, (3, 3, 99))
    downlink.repair("f" * 64, (0,))
    downlink.pump()
    assert not wire.published, "chunk 3 has just been sent"
    assert journal.offers() == (blob,)

    again = Downlink(wire, topics, store, journal)  # as after a crash
    again.offer(other)
    again.withdraw_all_but(other)
    for _ in range(10):
        wire.unacknowledged = 0
        again.pump()
    assert again.idle
    cleared = [topic for topic, payload in wire.published if not payload]
    assert cleared == [topics.chunk(blob.sha256, n) for n in range(40)]
    assert journal.offers() == (other,)
    journal.close()


def test_a_blob_that_is_wanted_again_is_not_cleared(tmp_path: Path) -> None:
    store, journal, wire = BlobStore(tmp_path / "b"), Journal(tmp_path), Wire()
    blob = store.put(b"x")
    downlink = Downlink(wire, Topics("f"), store, journal)
    downlink.offer(blob)
    downlink.pump()
    downlink.withdraw_all_but()
    downlink.offer(blob)
    wire.unacknowledged = 0
    downlink.pump()
    assert [payload for _, payload in wire.published] == [b"x", b"x"]
    assert journal.offers() == (blob,)
    journal.close()


def test_spares_are_asked_beside_the_chosen_and_the_seed_decides() -> None:
    available = [f"d{number}" for number in range(20)]
    chosen = available[:10]
    more = spares(chosen, available, factor=1.3, seed="1/train")
    assert len(more) == 3
    assert not set(more) & set(chosen)
    assert more == spares(chosen, available[::-1], factor=1.3, seed="1/train")
    assert spares(chosen, chosen, factor=1.3, seed="") == ()
    assert spares(chosen, available, factor=1.0, seed="") == ()


def test_a_device_has_the_time_that_it_took_before() -> None:
    rule = {"factor": 5.0, "floor": 20.0, "limit": 100.0}
    answered = {"quick": (1.0, 2.0), "slow": (3.0, 9.0), "slowest": (50.0,)}
    names = ("new", "quick", "slow", "slowest")
    assert [device_seconds(name, answered, **rule) for name in names] == [100.0, 20.0, 45.0, 100.0]


def test_eligibility() -> None:
    rule = Eligibility(examples=10, battery_percent=30.0, capabilities={"arch": "x86_64"})
    good = {"arch": "x86_64", "battery_percent": 30.0}
    assert rule.admits(state(examples=10, capabilities=good))
    assert rule.admits(state(examples=10, capabilities={"arch": "x86_64"})), "no battery"
    assert not rule.admits(state(examples=9, capabilities=good))
    assert not rule.admits(state(examples=10, capabilities=good | {"battery_percent": 29.0}))
    assert not rule.admits(state(examples=10, capabilities={"battery_percent": 90.0}))


def test_admission_keeps_what_the_strategy_needs() -> None:
    template = {"w": np.zeros(3, np.float32)}
    record = PhaseRecord(round=1, phase="train", weights=BLOB, available=("a",))
    admission = Admission.of(
        record,
        template,
        metrics=frozenset({"train_loss"}),
        examples_at_most=100,
        judge=MeanReply(train=True).judge,
    )
    update = Update(
        device="a",
        incarnation=1,
        counter=1,
        task="t",
        round=1,
        num_examples=100,
        metrics={"train_loss": 1.0, "more": 2.0},
        weights=BLOB,
    )
    admission.check_announced(update)
    assert admission.metrics_of(update) == {"train_loss": 1.0}
    half = admission.weights(update, tensors.encode({"w": np.ones(3, np.float32)}, "f16"))
    assert half["w"].dtype == np.float32
    with pytest.raises(TensorsError, match="finite"):
        admission.weights(update, tensors.encode({"w": np.full(3, np.inf, np.float32)}))
    # Its square is no float32 number any more: in FedAdam's second moment it would stay for ever.
    admission.weights(update, tensors.encode({"w": np.full(3, 1e19, np.float32)}))
    with pytest.raises(TensorsError, match="out of all bounds"):
        admission.weights(update, tensors.encode({"w": np.full(3, 2e19, np.float32)}))
    evaluation = Admission.of(
        PhaseRecord(round=1, phase="evaluate", weights=BLOB, available=()),
        template,
        metrics=frozenset({"loss"}),
        examples_at_most=100,
        judge=MeanReply(train=False).judge,
    )
    with pytest.raises(UpdateError, match="Expected no weights"):
        evaluation.check_announced(update)


def test_a_configuration_is_written_and_read_again(tmp_path: Path) -> None:
    config = CoordinatorConfig(
        broker="mqtt://h",
        fleet="f",
        model=Path("m.tflite"),
        strategy=StrategyConfig(name="FedAdam", arguments={"eta": 0.1}, wrapped=StrategyConfig()),
        eligible=Eligibility(examples=5),
        codec="f16",
    )
    config.write(tmp_path / "hedgerow.toml")
    read = CoordinatorConfig.load(tmp_path / "hedgerow.toml")
    assert (read.strategy, read.eligible, read.codec) == (config.strategy, config.eligible, "f16")
    assert read.folder == tmp_path / "coordinator"
    (tmp_path / "bad.toml").write_text('broker = "mqtt://h"\nfleet = "f"\nmodel = "m"\nuploads = 0\n')
    with pytest.raises(CoordinatorConfigError, match="uploads"):
        CoordinatorConfig.load(tmp_path / "bad.toml")


HEAD = 'broker = "mqtt://h"\nfleet = "f"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "received neither"),
        ('model = "m"\nrelease = "r"', "received both"),
        ('model = "m"\n[train]\nlearning-rate = nan', r"finite numbers.*\[train\].*nan"),
        ('model = "m"\n[evaluate]\nlimit = inf', r"finite numbers.*\[evaluate\].*inf"),
        (f'model = "m"\n[train]\nnote = "{"x" * 50_000}"', "bytes together"),
    ],
)
def test_a_configuration_that_no_device_would_understand(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "hedgerow.toml").write_text(HEAD + text)
    with pytest.raises(CoordinatorConfigError, match=words):
        CoordinatorConfig.load(tmp_path / "hedgerow.toml")


MANIFEST = {"name": "r", "version": "1.0.0", "weights_digest": hashlib.sha256(b"").hexdigest()}


def test_a_release_in_place_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "hedgerow.toml").write_text(HEAD + 'release = "r-1.0.0"')
    config = CoordinatorConfig.load(tmp_path / "hedgerow.toml")
    with pytest.raises(CoordinatorConfigError, match="No such file"):
        _ = config.trainable
    folder = tmp_path / "r-1.0.0"
    folder.mkdir()
    (folder / "t.tflite").write_bytes(b"trainable")
    entry = {"name": "t.tflite", "size": 9, "sha256": hashlib.sha256(b"trainable").hexdigest()}
    written = MANIFEST | {"files": [entry | {"kind": "trainable"}]}
    (folder / "manifest.json").write_text(json.dumps(written))
    assert config.trainable == folder / "t.tflite"
    (folder / "t.tflite").write_bytes(b"trainabel and more")
    with pytest.raises(CoordinatorConfigError, match="Expected 9 bytes"):
        _ = config.trainable
    (folder / "manifest.json").write_text(json.dumps(written | {"files": [entry | {"kind": "int8"}]}))
    with pytest.raises(CoordinatorConfigError, match="of kind trainable"):
        _ = config.trainable
