"""Blobs: chunks in any order, repeated, spoilt, and a process killed while it writes them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgerow.errors import BlobError
from hedgerow.protocol.blobs import BlobStore, cut, reference

DATA = random.Random(0).randbytes(5000)
BLOB = reference(DATA, chunk_bytes=1024)
CHUNKS = list(cut(DATA, 1024))


def test_put_and_read(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    blob = store.put(b"hello", codec="f32")
    assert (blob.size, blob.chunks, blob.codec) == (5, 1, "f32")
    assert blob.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert store.read(blob) == b"hello"
    assert store.chunk(blob, 0) == b"hello"
    assert store.missing(blob) == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=5))
def test_chunks_in_any_order_with_repetitions(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], repeated: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    arrived: set[int] = set()
    for number in [*repeated, *order]:
        store = BlobStore(folder)  # as after a reboot
        done = store.add_chunk(BLOB, number, CHUNKS[number])
        arrived.add(number)
        assert store.missing(BLOB) == tuple(n for n in range(5) if n not in arrived)
        assert done == (len(arrived) == 5)
    assert BlobStore(folder).read(BLOB) == DATA


@pytest.mark.parametrize(("number", "data"), [(5, b"x"), (0, b"x"), (4, CHUNKS[0]), (99, CHUNKS[0])])
def test_a_chunk_that_does_not_fit(tmp_path: Path, number: int, data: bytes) -> None:
    with pytest.raises(BlobError, match=f"as chunk {number}"):
        BlobStore(tmp_path).add_chunk(BLOB, number, data)


def test_a_spoilt_chunk_is_found_out_and_all_are_fetched_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    for number in range(4):
        store.add_chunk(BLOB, number, CHUNKS[number])
    with pytest.raises(BlobError, match="Expected SHA-256"):
        store.add_chunk(BLOB, 4, b"\0" * len(CHUNKS[4]))
    assert store.missing(BLOB) == (0, 1, 2, 3, 4)


def test_killed_between_the_last_chunk_and_the_whole(tmp_path: Path) -> None:
    folder = tmp_path / "partial" / BLOB.sha256
    folder.mkdir(parents=True)
    for number, chunk in enumerate(CHUNKS):
        (folder / str(number)).write_bytes(chunk)
    store = BlobStore(tmp_path)
    assert store.missing(BLOB) == ()
    assert store.read(BLOB) == DATA


def test_a_chunk_that_a_power_loss_cut_short_is_missing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.add_chunk(BLOB, 0, CHUNKS[0])
    (tmp_path / "partial" / BLOB.sha256 / "0").write_bytes(b"")
    assert store.missing(BLOB) == (0, 1, 2, 3, 4)


def test_a_file_that_the_disk_changed_is_found_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    blob = store.put(DATA)
    store.path(blob.sha256).write_bytes(DATA[:-1])
    with pytest.raises(BlobError, match="another one"):
        store.read(blob)
    with pytest.raises(BlobError, match="received nothing"):
        store.read(blob)


def test_keep(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    first, second = store.put(b"1"), store.put(b"2")
    store.add_chunk(BLOB, 0, CHUNKS[0])
    store.keep({first.sha256})
    assert store.has(first)
    assert not store.has(second)
    assert store.missing(BLOB) == (0, 1, 2, 3, 4)


WRITER = """
import random, sys
from pathlib import Path
from hedgerow.protocol.blobs import BlobStore, cut, reference
data = random.Random(0).randbytes(5000)
blob = reference(data, chunk_bytes=1024)
store = BlobStore(Path(sys.argv[1]))
while True:
    for number, chunk in enumerate(cut(data, 1024)):
        store.add_chunk(blob, number, chunk)
        print(number, flush=True)
    assert store.read(blob) == data
    store.remove(blob.sha256)
"""


@pytest.mark.parametrize("seed", range(5))
def test_kill_9_leaves_whole_chunks_only(tmp_path: Path, seed: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(random.Random(seed).randrange(1, 40)):
        assert process.stdout.readline(), "the writer died by itself"
    process.kill()
    process.wait()
    process.stdout.close()
    store = BlobStore(tmp_path)
    for number in store.missing(BLOB):
        store.add_chunk(BLOB, number, CHUNKS[number])
    assert store.read(BLOB) == DATA
