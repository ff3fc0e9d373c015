"""Messages: what is encoded is decoded, and what is no message is one clear error and no other exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import MessageError
from hedgerow.protocol import messages
from hedgerow.protocol.messages import (
    BlobReference,
    Chunk,
    ChunkHeader,
    DeviceState,
    Grant,
    Message,
    Task,
    Update,
    decode,
    encode,
    kind_of,
)
from hedgerow.protocol.topics import Place, Topics

BLOB = BlobReference(sha256="ab" * 32, size=70_000, codec="f32")
SENDER = {"device": "d1", "incarnation": 2, "counter": 3, "epoch": 1}
EXAMPLES: list[tuple[str, Message]] = [
    ("state", DeviceState(online=True, runtime="tflite 2.14.0", capabilities={"rss_mib": 41.5}, **SENDER)),
    ("up/accepted", messages.Accepted(task="t-1", **SENDER)),
    ("up/progress", messages.Progress(task="t-1", step="train", fraction=0.5, **SENDER)),
    ("up/failed", messages.Failed(task="t-1", reason="no samples", **SENDER)),
    ("up/update", Update(task="t-1", round=1, num_examples=9, metrics={"loss": 0.5}, weights=BLOB, **SENDER)),
    ("up/missing", messages.Missing(sha256="ab" * 32, chunks=(0, 5), **SENDER)),
    ("up/chunk", Chunk(ChunkHeader(task="t-1", sha256="ab" * 32, chunk=1, **SENDER), b"\x00\xff{")),
    (
        "down/task",
        Task(device="d1", epoch=1, counter=1, task="t-1", round=1, phase="train", program=BLOB, weights=BLOB),
    ),
    ("down/grant", Grant(device="d1", epoch=1, counter=2, task="t-1", sha256="ab" * 32, chunks=(0, 1))),
    ("down/settled", messages.Settled(device="d1", epoch=1, counter=3, task="t-1", accepted=True)),
    ("down/cancel", messages.Cancel(device="d1", epoch=1, counter=4, task="t-1")),
]


@pytest.mark.parametrize(("kind", "message"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_round_trip(kind: str, message: Message) -> None:
    assert decode(Place(kind=kind, device="d1"), encode(message)) == message
    assert kind.endswith(kind_of(message))


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, _ in EXAMPLES} | {"coordinator"} == messages.CLASSES.keys()


@pytest.mark.parametrize(("kind", "message"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_a_message_of_another_device_than_its_topic_says_is_refused(kind: str, message: Message) -> None:
    with pytest.raises(MessageError, match="'d2' by its topic, received one of 'd1'"):
        decode(Place(kind=kind, device="d2"), encode(message))


def test_a_newer_sides_unknown_fields_are_ignored() -> None:
    payload = json.loads(encode(EXAMPLES[1][1])) | {"from-the-future": [1]}
    assert decode(Place(kind="up/accepted", device="d1"), json.dumps(payload).encode()) == EXAMPLES[1][1]


@given(st.sampled_from([*messages.CLASSES, "up/none"]), st.binary(max_size=200))
def test_garbage_is_a_message_error(kind: str, payload: bytes) -> None:
    with pytest.raises(MessageError, match="Expected"):
        decode(Place(kind=kind, device="d1"), payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["kind", "task", "round", "metrics", "weights", "counter", "incarnation", "num_examples"]
)


@given(st.dictionaries(FIELDS, JSON))
def test_a_message_with_any_field_spoilt_is_valid_or_a_message_error(spoilt: dict[str, object]) -> None:
    payload = json.dumps(json.loads(encode(EXAMPLES[4][1])) | spoilt).encode()
    try:
        update = decode(Place(kind="up/update", device="d1"), payload)
    except MessageError:
        return
    assert isinstance(update, Update)
    assert update.num_examples >= 0
    assert update.task == update.task.strip().lower()


def test_chunks_of_a_blob() -> None:
    assert BLOB.chunks == 2
    assert [BLOB.chunk_size(n) for n in range(2)] == [65536, 70_000 - 65536]


def test_every_message_fits_a_broker_with_a_limit_of_128_kib() -> None:
    header = ChunkHeader(
        device="d" * 48,
        incarnation=2**53 - 1,
        counter=2**53 - 1,
        epoch=2**53 - 1,
        task="t" * 96,
        sha256="f" * 64,
        chunk=2**53 - 1,
    )
    topic = Topics("f" * 48).up("d" * 48, "chunk")
    assert len(encode(Chunk(header, b"\0" * messages.CHUNK_BYTES))) + len(topic) < 128 * 1024
