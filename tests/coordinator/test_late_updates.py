"""Asynchronous rounds are another policy on the same loop: late updates count for less, and once."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hedgerow.coordinator.lateness import Lateness
from hedgerow.coordinator.policy import TargetOrDeadline
from hedgerow.coordinator.records import Outstanding
from hedgerow.protocol.messages import BlobReference, Update

BLOB = BlobReference(sha256="0" * 64, size=100, codec="f32")
BUFFER, MOST_LATE = 3, 3


def share(rounds_late: int) -> float:
    return float((1 + rounds_late) ** -0.5)


def test_a_late_change_is_added_to_the_newer_model() -> None:
    class Halved(TargetOrDeadline):
        def share(self, rounds_late: int) -> float:
            return 0.5**rounds_late

    asked = Outstanding(task="t", device="d", round=2, weights=BLOB, config={}, seconds=1.0)
    start = {"w": np.float32([10, 20])}
    lateness = Lateness(4, start, {"t": asked}, Halved(1, 1.0), lambda blob: {"w": np.float32([1, 2])})
    late = Update(device="d", incarnation=1, counter=1, task="t", round=2, num_examples=1)
    new = Update(device="e", incarnation=1, counter=1, task="u", round=4, num_examples=1)
    np.testing.assert_array_equal(lateness.forward(late, {"w": np.float32([5, 2])})["w"], [11, 20])
    np.testing.assert_array_equal(lateness.forward(new, {"w": np.float32([5, 2])})["w"], [5, 2])
    assert (lateness.asked_in("t"), lateness.asked_in("u")) == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill", [(), ("before", "3"), ("after", "2")], ids=["undisturbed", "before", "after"]
)
def test_rounds_of_a_few_updates_lose_none_of_the_late_ones(
    kill: tuple[str, ...],
    make_rig: Callable[[str], Any],
    mosquitto: str,
    simulation: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAUNCH_BUFFER", str(BUFFER))
    rig = make_rig(mosquitto)
    rounds = 8
    rig.configure(rounds=rounds, start_devices=5, minimum_devices=5, round_seconds=60.0)
    rig.start_devices(3)
    rig.start_devices(2, work_seconds=0.7)
    assert rig.finish(rig.start_coordinator(*kill)) == 0
    journal = rig.journal()
    counted = {number: journal.updates(number, "train") for number in range(1, rounds + 1)}
    journal.close()
    total = 0.0
    for number, updates in counted.items():
        assert len(updates) >= BUFFER
        changes = [share(number - u.round) * simulation.delta(u.device, u.round) for u in updates]
        total += float(np.average(changes, weights=[u.num_examples for u in updates]))
    start = np.linspace(-1, 1, rig.final["dense/kernel"].size, dtype=np.float32)
    np.testing.assert_allclose(rig.final["dense/kernel"].ravel() - start, total, atol=2e-4)

    late = [number - u.round for number, updates in counted.items() for u in updates]
    assert any(late), "two devices take as long as several rounds"
    assert 0 <= min(late) <= max(late) <= MOST_LATE
    tasks = collections.Counter(u.task for updates in counted.values() for u in updates)
    assert set(tasks.values()) == {1}, "each counts once"
    stored = {line["task"] for line in rig.history if line["what"] == "settled" and line["accepted"]}
    trained = {task for task in stored if "-train-" in task}
    assert trained <= tasks.keys(), "what a device was told is stored is counted"
