"""The spool: what it has said to keep is there, whenever the process dies."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hedgerow.edge.result import Result
from hedgerow.edge.spool import OVER_AT_MOST, Spool, SpoolSummary
from hedgerow.errors import SpoolError

# Adds and forgets results and says each only after the spool has returned, as the agent does.
_WRITER = """
import sys
from pathlib import Path
from hedgerow.edge.result import Result
from hedgerow.edge.spool import Spool

spool = Spool(Path(sys.argv[1]))
print("start", spool.begin(), flush=True)
for number in range(int(sys.argv[2]), 1 << 30):
    weights = spool.blobs.put(number.to_bytes(4, "big") * 30_000, codec="f32")
    name = f"t{number}"
    spool.add(Result(task=name, round=1, num_examples=number, metrics={}, weights=weights, seconds=0.1))
    print("kept", number, flush=True)
    if number % 3 == 0:
        print("forgetting", number, flush=True)
        spool.forget(name)
        print("forgot", number, flush=True)
"""


def result(spool: Spool, number: int) -> Result:
    weights = spool.blobs.put(number.to_bytes(4, "big") * 30_000, codec="f32")
    return Result(
        task=f"t{number}", round=1, num_examples=number, metrics={"loss": 0.5}, weights=weights, seconds=0.1
    )


def test_results_come_back_in_order_until_they_are_forgotten(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        kept = [result(spool, number) for number in range(3)]
        for one in kept:
            spool.add(one)
        spool.forget("t1")
    with Spool(tmp_path) as spool:
        assert spool.results() == (kept[0], kept[2])
        assert spool.over() == ("t1",)
        assert kept[1].weights is not None
        assert not spool.blobs.has(kept[1].weights)
        assert kept[0].weights is not None
        assert spool.blobs.read(kept[0].weights) == b"\0\0\0\0" * 30_000


def test_each_start_counts_one_up(tmp_path: Path) -> None:
    starts = []
    for _ in range(3):
        with Spool(tmp_path) as spool:
            starts.append(spool.begin())
    assert starts == [starts[0], starts[0] + 1, starts[0] + 2]
    assert abs(starts[0] - time.time()) < 60


def test_two_results_may_share_their_weights(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        one = result(spool, 1)
        spool.add(one)
        spool.add(Result(task="t2", round=1, num_examples=1, metrics={}, weights=one.weights, seconds=0.1))
        spool.forget("t1")
        assert one.weights is not None
        assert spool.blobs.has(one.weights)
        spool.forget("t2")
        assert not spool.blobs.has(one.weights)


def test_what_is_over_is_remembered_up_to_a_limit(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for number in range(OVER_AT_MOST + 5):
            spool.forget(f"t{number}")
        assert spool.over() == tuple(f"t{number}" for number in range(5, OVER_AT_MOST + 5))


def test_a_second_agent_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(SpoolError, match="another one uses"):
        Spool(tmp_path)
    with Spool(tmp_path):
        pass


def test_a_damaged_database_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Spool(tmp_path) as spool:
        spool.add(result(spool, 1))
    (tmp_path / "spool.db").write_bytes(b"no database at all " * 300)
    with Spool(tmp_path) as spool:
        assert spool.results() == ()
    assert "damaged" in caplog.text
    assert [path.read_bytes()[:11] for path in tmp_path.glob("spool.db.damaged-*")] == [b"no database"]


def test_a_result_whose_weights_the_disk_changed_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(tmp_path) as spool:
        lost, kept = result(spool, 1), result(spool, 2)
        spool.add(lost)
        spool.add(kept)
        assert lost.weights is not None
        spool.blobs.path(lost.weights.sha256).write_bytes(b"something else")
    with Spool(tmp_path) as spool:
        assert spool.results() == (kept,)
    assert "t1 is lost" in caplog.text


def test_weights_without_a_row_are_removed_at_the_next_start(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        orphan = result(spool, 1).weights
    with Spool(tmp_path) as spool:
        assert orphan is not None
        assert not spool.blobs.has(orphan)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    with pytest.raises(SpoolError, match="state"):
        Spool(tmp_path / "state")


def test_the_summary_reads_beside_a_running_agent(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        incarnation = spool.begin()
        spool.add(result(spool, 1))
        spool.forget("t0")
        assert SpoolSummary.read(tmp_path) == SpoolSummary(incarnation, ("t1",), 1)
    with pytest.raises(SpoolError, match=r"without a spool\.db"):
        SpoolSummary.read(tmp_path / "elsewhere")


@pytest.mark.slow
def test_killed_at_any_moment_nothing_kept_is_lost_and_nothing_forgotten_comes_back(tmp_path: Path) -> None:
    generator = random.Random(11)
    there: set[int] = set()
    incarnation, number = 0, 0
    for _ in range(30):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            word, count = writer.stdout.readline().split()
            assert (word, int(count) > incarnation) == ("start", True)
            incarnation = int(count)
            time.sleep(generator.uniform(0.0, 0.08))
            writer.send_signal(signal.SIGKILL)
            said = [line.split() for line in writer.stdout.read().splitlines()]
        for word, count in said:
            number = int(count) + 1
            if word == "kept":
                there.add(int(count))
            else:
                there.discard(int(count))
        undecided = {int(count) for word, count in said[-1:] if word == "forgetting"} | {number}
        with Spool(tmp_path) as spool:
            found = {one.num_examples for one in spool.results()}
            blobs = {one.weights.sha256 for one in spool.results() if one.weights}
            assert found - undecided == there - undecided
            assert {path.name for path in (tmp_path / "spool" / "complete").iterdir()} == blobs
            there = found
        number = max([number, *(one + 1 for one in found)])
    assert len(there) > 20
