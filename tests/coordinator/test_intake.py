"""Updates on their way in: any order, spoilt, trained again, and after a crash in between."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hedgerow.coordinator.intake import Intake
from hedgerow.errors import BlobError
from hedgerow.protocol.blobs import cut, reference
from hedgerow.protocol.messages import BlobReference, Chunk, ChunkHeader, Update

DATA = random.Random(0).randbytes(5000)
BLOB = reference(DATA, codec="f32", chunk_bytes=1024)
CHUNKS = list(cut(DATA, 1024))


def chunk(number: int, data: bytes | None = None, *, blob: BlobReference = BLOB, task: str = "t") -> Chunk:
    header = ChunkHeader(
        device="d", incarnation=1, counter=number, task=task, sha256=blob.sha256, chunk=number
    )
    return Chunk(header, CHUNKS[number] if data is None else data)


def update(task: str = "t", blob: BlobReference = BLOB) -> Update:
    return Update(device="d", incarnation=1, counter=1, task=task, round=1, num_examples=1, weights=blob)


@pytest.mark.parametrize("small_bytes", [0, 1 << 20])
def test_any_order_and_repetitions(tmp_path: Path, small_bytes: int) -> None:
    intake = Intake(tmp_path, small_bytes=small_bytes)
    assert intake.expect("t", BLOB) == (0, 1, 2, 3, 4)
    assert intake.add(chunk(3)) == (0, 1, 2, 4)
    assert intake.add(chunk(3)) == (0, 1, 2, 4)
    for number in (4, 0, 2):
        intake.add(chunk(number))
    assert intake.add(chunk(1)) == ()
    intake.sync([update()])
    assert intake.read(update()) == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert intake.bytes_received == len(DATA)


def test_a_restart_goes_on_with_the_chunks_that_are_here(tmp_path: Path) -> None:
    intake = Intake(tmp_path, small_bytes=0)
    intake.expect("t", BLOB)
    for number in (0, 1):
        intake.add(chunk(number))
    (tmp_path / "t.1").write_bytes(b"cut short")
    assert Intake(tmp_path).expect("t", BLOB) == (1, 2, 3, 4)
    # What is left behind in files goes on in files, though it is small.
    whole = Intake(tmp_path)
    whole.expect("t", BLOB)
    for number in (1, 2, 3, 4):
        whole.add(chunk(number))
    assert Intake(tmp_path).expect("t", BLOB) == ()
    (tmp_path / "t").write_bytes(DATA[:-1])
    assert Intake(tmp_path).expect("t", BLOB) == (0, 1, 2, 3, 4)


def test_an_update_that_was_trained_again(tmp_path: Path) -> None:
    intake, other = Intake(tmp_path), reference(b"other" * 300, codec="f32", chunk_bytes=1024)
    intake.expect("t", BLOB)
    intake.add(chunk(0))
    assert intake.expect("t", other) == (0, 1)
    assert intake.add(chunk(1)) is None, "of the first one"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("small_bytes", [0, 1 << 20])
def test_spoilt(tmp_path: Path, small_bytes: int) -> None:
    intake = Intake(tmp_path, small_bytes=small_bytes)
    intake.expect("t", BLOB)
    with pytest.raises(BlobError, match="Expected 1024 bytes as chunk 0"):
        intake.add(chunk(0, b"short"))
    for number in range(4):
        intake.add(chunk(number))
    with pytest.raises(BlobError, match="received chunks with"):
        intake.add(chunk(4, b"\0" * len(CHUNKS[4])))
    assert intake.expect("t", BLOB) == (0, 1, 2, 3, 4)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BlobError, match="received nothing"):
        intake.read(update())


def test_only_so_much_waits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.coordinator.intake.HELD_BYTES", 2 * len(DATA))
    intake = Intake(tmp_path)
    for task in ("a", "b", "c"):
        intake.expect(task, BLOB)
        intake.add(chunk(0, task=task))
    assert [path.name for path in tmp_path.iterdir()] == ["c.0"]
    intake.drop("a")
    intake.expect("d", BLOB)
    intake.add(chunk(0, task="d"))
    assert [path.name for path in tmp_path.iterdir()] == ["c.0"]


@pytest.mark.parametrize("small_bytes", [0, 1 << 20])
def test_a_full_disk(tmp_path: Path, small_bytes: int) -> None:
    intake = Intake(tmp_path, small_bytes=small_bytes)
    intake.expect("t", BLOB)
    for number in range(4):
        intake.add(chunk(number))
    # A folder in the place of the whole update: it cannot be written.
    (tmp_path / "t").mkdir()
    with pytest.raises(OSError, match="directory"):
        intake.add(chunk(4))
    (tmp_path / "t").rmdir()
    missing = intake.expect("t", BLOB)
    assert missing == (0, 1, 2, 3, 4)
    for number in missing:
        intake.add(chunk(number))
    assert intake.read(update()) == DATA


def test_keep(tmp_path: Path) -> None:
    intake = Intake(tmp_path, small_bytes=0)
    for task in ("a", "b"):
        intake.expect(task, BLOB)
        intake.add(chunk(0, task=task))
    intake.keep({"a"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.0"]
    assert intake.expect("b", BLOB) == (0, 1, 2, 3, 4)
