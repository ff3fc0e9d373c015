"""An agent that is killed again and again: every task is answered, each update is stored once."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from hedgerow.protocol.messages import Accepted, Chunk, DeviceState, Grant, Settled, Task, Update

Fixture = Any
KILLS = 20


class PatientCoordinator:
    """Asks for one task after another; repeats what gets no answer, and counts what it stores."""

    def __init__(self, coordinator: Any, offered: dict[str, Any]) -> None:
        self._coordinator = coordinator
        self._offered = offered
        self._chunks: dict[str, dict[int, bytes]] = {}
        self.stored: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.enough.is_set():
            self._finish(f"task-{number}", number + 1)
            number += 1

    def _finish(self, name: str, round_: int) -> None:
        until = time.monotonic() + 300.0
        while name not in self.stored:
            assert time.monotonic() < until, f"{name} is not answered"
            self._ask(name, round_)
            for _ in range(30):
                if not self._hear(name):
                    break

    def _ask(self, name: str, round_: int) -> None:
        fields = {"task": name, "round": round_, "phase": "train"} | self._offered
        self._coordinator.tell(Task, "d1", config={"epochs": 2, "learning-rate": 0.01}, **fields)

    def _hear(self, name: str) -> bool:
        """Deals with one message; False when the task should be asked for again."""
        try:
            message = self._coordinator.wait((Update, Chunk, DeviceState, Accepted), seconds=3.0)
        except AssertionError:
            return False
        match message:
            case DeviceState(online=True, tasks=tasks):
                return name in tasks
            case Update(task=task):
                self._grant(message)
                if task in self.stored:
                    self._coordinator.tell(Settled, "d1", task=task, accepted=True)
            case Chunk(header=header, data=data) if header.task == name:
                parts = self._chunks.setdefault(name, {})
                parts[header.chunk] = data
                if len(parts) == self._wanted and name not in self.stored:
                    self.stored.append(name)
                    self._coordinator.tell(Settled, "d1", task=name, accepted=True)
                    return False
        return True

    def _grant(self, update: Update) -> None:
        if update.weights is None or update.task in self.stored:
            return
        self._wanted = update.weights.chunks
        missing = [n for n in range(self._wanted) if n not in self._chunks.get(update.task, {})]
        fields = {"task": update.task, "sha256": update.weights.sha256, "chunks": tuple(missing)}
        self._coordinator.tell(Grant, "d1", **fields)


@pytest.mark.slow
def test_killed_again_and_again_it_answers_every_task_once(
    coordinator: Fixture, model: Fixture, make_agent: Fixture
) -> None:
    generator = random.Random(2)
    offered = {
        "program": coordinator.offer(model.program),
        "weights": coordinator.offer(model.weights, codec="f32"),
    }
    agent = make_agent()
    patient = PatientCoordinator(coordinator, offered)
    thread = threading.Thread(target=patient.run)
    thread.start()
    kills = 0
    while kills < KILLS or len(patient.stored) < 4:
        # From before it is connected to after several tasks; a busy machine gets more time each time.
        thread.join(generator.uniform(0.1, 3.0 + kills / 10))
        assert thread.is_alive()
        agent.kill()
        agent.start()
        kills += 1
    patient.enough.set()
    thread.join(310.0)
    assert not thread.is_alive()
    assert patient.stored == [f"task-{number}" for number in range(len(patient.stored))]
    coordinator.wait(DeviceState, online=True, tasks=(), seconds=30.0)
