"""The grid on its own: what a ServerApp is given does not depend on the order in which devices answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Krum

from hedgerow.coordinator import flower_records
from hedgerow.coordinator.flower_admission import FlowerAdmission
from hedgerow.coordinator.flower_grid import FleetGrid
from hedgerow.coordinator.intake import Intake
from hedgerow.coordinator.journal import Journal
from hedgerow.coordinator.records import PhaseRecord
from hedgerow.errors import TensorsError
from hedgerow.protocol.blobs import reference
from hedgerow.protocol.messages import Update

# Of the three pairs a-b is the nearest: a and b have the same score, and Krum takes the first of them.
ANSWERS = {"a": 0.0, "b": 1.0, "c": 5.0}


class Post:
    """In place of the postbox: every answer is there at once, in an order that a test names."""

    def __init__(self, journal: Journal, folder: Path, order: Sequence[str]) -> None:
        self._journal, self._folder, self._order = journal, folder, order

    def devices(self) -> tuple[str, ...]:
        return tuple(sorted(ANSWERS))

    def post(self, record: PhaseRecord, contents: Mapping[str, bytes], *, seconds: float) -> Future[None]:
        tasks = {letter.device: letter.task for letter in record.letters}
        for counter, device in enumerate(self._order):
            arrays = ArrayRecord([np.full(4, ANSWERS[device])])
            metrics = MetricRecord({"num-examples": 1, "train_loss": 0.0})
            data = flower_records.encode(RecordDict({"arrays": arrays, "metrics": metrics}))
            (self._folder / tasks[device]).write_bytes(data)
            update = Update(
                device=device,
                incarnation=1,
                counter=counter,
                task=tasks[device],
                round=record.round,
                num_examples=1,
                weights=reference(data, codec="flower"),
            )
            self._journal.put_updates("messages", update.round, [update])
        closed: Future[None] = Future()
        closed.set_result(None)
        return closed

    def wait(self, future: Future[None]) -> None:
        future.result()

    def answers(self, number: int) -> dict[str, Update | str]:
        return {update.task: update for update in self._journal.updates(number, "messages")}


@pytest.mark.parametrize("order", list(itertools.permutations(ANSWERS)))
def test_krum_decides_a_tie_the_same_way_whoever_answers_first(order: Sequence[str], tmp_path: Path) -> None:
    journal, answers = Journal(tmp_path), tmp_path / "answers"
    intake = Intake(answers)
    post = Post(journal, answers, order)
    grid = FleetGrid(post, journal, intake, app="a/b", run_id=1, run_config={})  # type: ignore[arg-type]
    strategy = Krum(num_malicious_nodes=0, min_train_nodes=3, min_available_nodes=3)
    messages = strategy.configure_train(1, ArrayRecord([np.zeros(4)]), ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    journal.close()
    assert arrays is not None
    np.testing.assert_array_equal(arrays.to_numpy_ndarrays()[0], np.full(4, ANSWERS["a"]))


def content(**metrics: Any) -> bytes:
    arrays = ArrayRecord([np.ones(2)])
    return flower_records.encode(RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)}))


def test_a_list_among_numbers_is_unlike_them() -> None:
    """Flower ends the run over a `num-examples` that is a list."""
    like, unlike = content(loss=1.0, **{"num-examples": 5}), content(loss=1.0, **{"num-examples": [5]})
    signatures = [flower_records.signature(flower_records.decode(data)) for data in (like, unlike)]
    assert signatures[0] != signatures[1]


@pytest.mark.parametrize("examples", [-1, -0.5, math.nan, math.inf])
def test_an_answer_of_an_impossible_number_of_examples_is_refused_alone(examples: float) -> None:
    """Flower divides by the sum of all: one below zero makes every other worthless."""
    admission = FlowerAdmission(bytes_at_most=1000, finite=True)
    data = content(**{"num-examples": examples})
    update = Update(device="a", incarnation=1, counter=1, task="t", round=1, num_examples=1)
    with pytest.raises(TensorsError, match="number of examples"):
        admission.weights(update, data)
    admission.weights(update, content(**{"num-examples": 0, "loss": math.nan}))
    admission.weights(update, content(loss=1.0))
