"""The sample store: bounded, durable, the device's own."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.edge.sample_cipher import KEY_NAME
from hedgerow.edge.sample_count import count_samples
from hedgerow.edge.sample_policy import STORE_NAME, SamplePolicy
from hedgerow.edge.sample_source import SampleSource
from hedgerow.edge.sample_store import SampleStore
from hedgerow.errors import SamplesError

_WRITER = """
import sys
from pathlib import Path
import numpy as np
from hedgerow.edge.sample_store import SamplePolicy, SampleStore

store = SampleStore(Path(sys.argv[1]), policy=SamplePolicy(test_fraction=0.5, encrypted=True))
print("ready", flush=True)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    store.add(np.full((40, 40), number, np.float32), number % 3)
    print(number, flush=True)
"""


def example(number: int) -> np.ndarray:
    return np.full((2, 3), number, np.float32)


def fill(store: SampleStore, labels: list[int]) -> None:
    store.add_many([example(number) for number in range(len(labels))], labels)


def kept(store: SampleStore) -> dict[int, int]:
    """The label of every sample, by its number."""
    found: dict[int, int] = {}
    for split in ("train", "test"):
        if store.count(split):
            samples = store.load(split)
            found |= dict(zip(samples.x[:, 0, 0].astype(int).tolist(), samples.y.tolist(), strict=True))
    return found


@pytest.mark.parametrize("encrypted", [False, True])
def test_samples_come_back_in_order_with_their_types(encrypted: bool, tmp_path: Path) -> None:
    policy = SamplePolicy(test_fraction=0.0, encrypted=encrypted)
    x = np.arange(30, dtype=np.uint8).reshape(5, 3, 2)
    y = np.array([3, 1, 4, 1, 5], np.int64)
    with SampleStore(tmp_path, policy=policy) as store:
        store.add(x[0], y[0])
        store.add_many(x[1:], y[1:])
    with SampleStore(tmp_path, policy=policy) as store:
        samples = store.load("train")
        assert (samples.x.dtype, samples.y.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(samples.x, x)
        np.testing.assert_array_equal(samples.y, y)
        assert (store.count("train"), store.count("test"), store.added()) == (5, 0, 5)
        with pytest.raises(SamplesError, match="received none"):
            store.load("test")


@pytest.mark.parametrize("encrypted", [False, True])
def test_samples_of_several_inputs_come_back_as_the_trainer_takes_them(
    encrypted: bool, tmp_path: Path
) -> None:
    policy = SamplePolicy(test_fraction=0.0, encrypted=encrypted)
    words = np.arange(20, dtype=np.int32).reshape(5, 4)
    images = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 3, 2)
    y = np.arange(10, dtype=np.int32).reshape(5, 2)
    with SampleStore(tmp_path, policy=policy) as store:
        store.add({"x1": images[0], "x0": words[0]}, y[0])
        store.add_many({"x0": words[1:], "x1": images[1:]}, y[1:])
    with SampleStore(tmp_path, policy=policy) as store:
        samples = store.load("train")
        assert isinstance(samples.x, dict)
        assert list(samples.x) == ["x0", "x1"]
        for loaded, given in ((samples.x["x0"], words), (samples.x["x1"], images), (samples.y, y)):
            assert loaded.dtype == given.dtype
            np.testing.assert_array_equal(loaded, given)
        for other in (words[0], {"x0": words[0], "x1": words[0]}):
            with pytest.raises(SamplesError, match="as before"):
                store.add(other, y[0])
        for odd in ({}, {"x0": words[0]}, {"x0": words[0], "x2": images[0]}, {"english": words[0]}):
            with pytest.raises(SamplesError, match="'x0', 'x1' and so on"):
                store.add(odd, y[0])
        assert len(store.load("train")) == 5


def test_the_split_belongs_to_the_sample_and_not_to_the_store(tmp_path: Path) -> None:
    tests = []
    for folder in ("a", "b"):
        with SampleStore(tmp_path / folder, policy=SamplePolicy(test_fraction=0.3)) as store:
            fill(store, [0] * 300)
            fill(store, [0] * 300)
            tests.append(set(store.load("test").x[:, 0, 0].astype(int).tolist()))
            assert not tests[-1] & set(store.load("train").x[:, 0, 0].astype(int).tolist())
    assert tests[0] == tests[1]
    assert 60 <= len(tests[0]) <= 120


def test_a_full_store_keeps_a_uniform_sample_of_all_that_came(tmp_path: Path) -> None:
    with SampleStore(tmp_path, policy=SamplePolicy(limit=200, test_fraction=0.0)) as store:
        for start in range(0, 2000, 100):
            store.add_many([example(start + number) for number in range(100)], [0] * 100)
        numbers = np.array(sorted(kept(store)))
    assert len(numbers) == 200
    assert store_mean_is_uniform(numbers)


def store_mean_is_uniform(numbers: np.ndarray) -> bool:
    """Mean of 200 of 0..1999: 999.5 with a standard error of 39; five of them are allowed."""
    return bool(abs(numbers.mean() - 999.5) < 195 and len(set(numbers // 500)) == 4)


def test_a_full_store_keeps_the_newest_if_asked(tmp_path: Path) -> None:
    with SampleStore(tmp_path, policy=SamplePolicy(limit=10, keep="newest", test_fraction=0.0)) as store:
        for number in range(25):
            store.add(example(number), 0)
        assert sorted(kept(store)) == list(range(15, 25))


@pytest.mark.parametrize("keep", ["reservoir", "newest"])
def test_rare_classes_stay(keep: Any, tmp_path: Path) -> None:
    policy = SamplePolicy(limit=30, keep=keep, test_fraction=0.0)
    with SampleStore(tmp_path, policy=policy) as store:
        fill(store, [1] * 4 + [2] * 8 + [3] * 200)
        counts = np.bincount(list(kept(store).values()))
    assert counts.tolist() == [0, 4, 8, 18]


def test_the_bytes_are_bounded(tmp_path: Path) -> None:
    policy = SamplePolicy(limit_mib=1, test_fraction=0.5)
    with SampleStore(tmp_path, policy=policy) as store:
        for number in range(40):
            store.add(np.full((10, 10_000), number, np.uint8), 0)
        assert 1 <= store.count("train") <= 5
        assert 1 <= store.count("test") <= 5
    assert (tmp_path / STORE_NAME).stat().st_size < 3 << 20


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 3), np.float32), 0, r"shape \[2,3\]"),
        (np.zeros((2, 3), np.float64), 0, "type <f4"),
        (example(1), [0, 1], "'y'"),
        (example(1), 0.5, "'y'"),
        (np.full((2, 3), np.inf, np.float32), 0, "finite"),
        (np.array([["a"]]), 0, "numbers"),
        (np.zeros((0, 3), np.float32), 0, "with values"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_and_nothing_of_its_batch_kept(
    x: Any, y: Any, message: str, tmp_path: Path
) -> None:
    with SampleStore(tmp_path) as store:
        store.add(example(0), 0)
        with pytest.raises(SamplesError, match=message):
            store.add_many([example(1), x], [1, y])
        assert kept(store) == {0: 0}


@pytest.mark.parametrize("encrypted", [False, True])
def test_forgotten_samples_are_not_on_the_disk_any_more(encrypted: bool, tmp_path: Path) -> None:
    with SampleStore(tmp_path, policy=SamplePolicy(encrypted=encrypted)) as store:
        secret = np.frombuffer(b"a very private sample " * 200, np.uint8)
        store.add(secret, 1)
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert (b"very private" in on_disk) != encrypted
        key = (tmp_path / KEY_NAME).read_bytes() if encrypted else b""
        store.forget()
        assert (store.count("train"), store.count("test")) == (0, 0)
        store.add(np.zeros(3, np.float32), 2)
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"very private" not in on_disk
    assert not encrypted or (tmp_path / KEY_NAME).read_bytes() != key


def test_another_key_cannot_read_the_samples(tmp_path: Path) -> None:
    policy = SamplePolicy(encrypted=True, test_fraction=0.0)
    with SampleStore(tmp_path, policy=policy) as store:
        store.add(example(1), 1)
        assert (tmp_path / KEY_NAME).stat().st_mode & 0o077 == 0
        (tmp_path / KEY_NAME).write_bytes(bytes(32))
        with pytest.raises(SamplesError, match="sealed with the key"):
            store.load("train")


def test_several_processes_add_at_once_while_one_reads(tmp_path: Path) -> None:
    ranges = [(start, start + 40) for start in (0, 100, 200)]
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(first), str(last)], stdout=-3)
        for first, last in ranges
    ]
    policy = SamplePolicy(test_fraction=0.5, encrypted=True)
    with SampleStore(tmp_path, policy=policy) as store:
        while any(writer.poll() is None for writer in writers):
            kept(store)
            time.sleep(0.02)
        assert [writer.wait() for writer in writers] == [0, 0, 0]
        assert sorted(kept(store)) == [number for first, last in ranges for number in range(first, last)]


@pytest.mark.slow
def test_every_acknowledged_sample_survives_kill_9(tmp_path: Path) -> None:
    generator = random.Random(5)
    acknowledged: set[int] = set()
    start = 0
    for _ in range(20):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(start), str(1 << 30)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
            acknowledged |= {int(line) for line in writer.stdout.read().splitlines()}
        start = max(acknowledged, default=0) + 2
    with SampleStore(tmp_path, policy=SamplePolicy(test_fraction=0.5, encrypted=True)) as store:
        found = set(kept(store))
    assert acknowledged <= found
    assert len(found - acknowledged) <= 20


def test_a_store_cut_in_the_middle_gives_what_it_still_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = SamplePolicy(test_fraction=0.0)
    with SampleStore(tmp_path, policy=policy) as store:
        store.add_many([np.full((30, 30), number, np.float32) for number in range(100)], [0] * 100)
        page = store._database.execute("PRAGMA page_size").fetchone()[0]
    path = tmp_path / STORE_NAME
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // page * page
    data[middle : middle + 4 * page] = bytes(4 * page)
    path.write_bytes(data)
    with SampleStore(tmp_path, policy=policy) as store:
        store.add(np.full((30, 30), 100, np.float32), 0)
        numbers = set(store.load("train").x[:, 0, 0].astype(int).tolist())
    assert "damaged" in caplog.text
    assert 100 in numbers
    assert len(numbers) > 50


def test_a_full_disk_is_said_and_nothing_kept_before_is_lost(tmp_path: Path) -> None:
    with SampleStore(tmp_path, policy=SamplePolicy(test_fraction=0.0)) as store:
        store.add(example(0), 0)
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count={pages + 2}")
        store.add(np.full((2, 3), 1, np.float32), 0)
        with pytest.raises(SamplesError, match="full"):
            store.add_many([example(number) for number in range(2, 500)], [0] * 498)
        assert sorted(kept(store)) == [0, 1]
        store._database.execute("PRAGMA max_page_count=100000")
        store.add(example(2), 0)
        assert sorted(kept(store)) == [0, 1, 2]


def test_a_source_takes_the_store_as_soon_as_there_is_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int32))
    with SampleSource(tmp_path, SamplePolicy(test_fraction=0.0)) as source:
        assert (len(source.load("train")), count_samples(tmp_path, "train")) == (4, 4)
        with SampleStore(tmp_path, policy=SamplePolicy(test_fraction=0.0)) as store:
            fill(store, [0, 1])
        assert (len(source.load("train")), count_samples(tmp_path, "train")) == (2, 2)


@pytest.mark.parametrize("fields", [{"limit": 1}, {"limit_mib": 0}, {"test_fraction": 1.0}, {"keep": "best"}])
def test_a_policy_outside_its_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SamplesError, match=next(iter(fields))):
        SamplePolicy(**fields)
