"""The journal: what it gives back, and that kill -9 takes nothing that it has written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hedgerow.coordinator import flower, flower_strategies
from hedgerow.coordinator.journal import Journal
from hedgerow.coordinator.records import PhaseRecord, RoundRecord
from hedgerow.coordinator.strategy_state import restore_state, save_state
from hedgerow.errors import JournalError
from hedgerow.protocol.messages import BlobReference, Update

BLOB = BlobReference(sha256="a" * 64, size=10, codec="f32")


def update(number: int) -> Update:
    return Update(device="d", incarnation=1, counter=number, task=f"t-{number}", round=1, num_examples=3)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    opened = PhaseRecord(round=1, phase="train", weights=BLOB, available=("a", "b"))
    journal.put_phase(opened)
    journal.put_updates("train", 1, [update(1)])
    journal.put_updates("train", 1, [update(1)])
    journal.put_updates("train", 1, [update(2)])
    journal.close()
    again = Journal(tmp_path)
    assert again.phase(1, "train") == opened
    assert again.phase(1, "evaluate") is None
    assert again.updates(1, "train") == (update(1), update(2))
    assert again.updates(1, "evaluate") == ()
    assert again.update("t-2") == update(2)
    assert again.update("t-3") is None
    again.close()


def test_a_phase_is_written_again_with_its_result_and_epochs_count_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    record = PhaseRecord(round=1, phase="train", weights=BLOB, available=())
    journal.put_phase(record)
    finished = PhaseRecord(
        round=1, phase="train", weights=BLOB, available=(), result=BLOB, metrics={"loss": 0.5}
    )
    journal.put_phase(finished)
    assert journal.phase(1, "train") == finished
    assert [journal.next_epoch(), journal.next_epoch()] == [1, 2]
    assert journal.run() == journal.run()
    journal.close()


def test_rounds_come_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    records = [
        RoundRecord(
            round=round_,
            devices=2,
            device_loss=None,
            device_accuracy=0.5,
            held_out_loss=None,
            held_out_accuracy=None,
            seconds=1.0,
            bytes_down=1,
            bytes_up=2,
            weights=BLOB,
        )
        for round_ in (2, 1, 10)
    ]
    for record in records:
        journal.put_round(record)
    assert [record.round for record in journal.rounds()] == [1, 2, 10]
    journal.close()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="Expected a journal in"):
        Journal(tmp_path / "file")


WRITER = """
import sys
from pathlib import Path
from hedgerow.coordinator.journal import Journal
from hedgerow.protocol.messages import Update
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    update = Update(device="d", incarnation=1, counter=number, task=f"t-{number}", round=1, num_examples=3)
    journal.put_updates("train", 1, [update])
    print(number, flush=True)
"""


def test_kill_9_loses_no_update_that_was_acknowledged(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 50:
            process.kill()
            break
    acknowledged = max([acknowledged, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    journal = Journal(tmp_path)
    written = [u.counter for u in journal.updates(1, "train")]
    journal.close()
    assert written[:acknowledged] == list(range(1, acknowledged + 1))
    assert len(written) <= acknowledged + 1


@pytest.mark.parametrize("name", ["FedAdam", "FedAvgM", "FedYogi", "FedAdagrad"])
def test_a_strategy_goes_on_after_a_restart_as_if_nothing_had_happened(name: str) -> None:
    rng = np.random.default_rng(1)
    grid = flower.NodeGrid(lambda: [1 << 33])
    start = {"z": rng.normal(size=(3, 2)).astype(np.float32), "a": rng.normal(size=2).astype(np.float32)}
    answers = [{k: rng.normal(size=v.shape).astype(np.float32) for k, v in start.items()} for _ in range(4)]
    arguments = {"server_momentum": 0.9} if name == "FedAvgM" else {}

    def trajectory(restarts: bool) -> list[dict[str, np.ndarray]]:
        strategy, weights, history = flower_strategies.make_strategy(name, arguments), start, []
        for round_, answer in enumerate(answers, 1):
            if restarts:
                state = save_state(strategy)
                strategy = flower_strategies.make_strategy(name, arguments)
                restore_state(strategy, state)
            arrays = flower.to_arrays(weights)
            messages = list(strategy.configure_train(round_, arrays, flower.to_config({}), grid))
            result, _ = strategy.aggregate_train(round_, [flower.make_reply(messages[0], answer, {}, 1)])
            assert result is not None
            weights = flower.from_arrays(result)
            history.append(weights)
        return history

    for straight, restarted in zip(trajectory(False), trajectory(True), strict=True):
        for key, value in straight.items():
            np.testing.assert_array_equal(restarted[key], value)
