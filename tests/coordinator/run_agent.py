"""Runs a real agent whose training is arithmetic, and writes down what it finishes and what it is told.

    python run_agent.py CONFIG HISTORY FLEET_PROGRAM [CLOCK_SHIFT_SECONDS]

SIGUSR1: its disk is full for a second. The clock is shifted for everything in the process that reads it.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow.edge.agent import Agent
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.result import Result
from hedgerow.edge.session.events import WorkFinished
from hedgerow.edge.spool import Spool
from hedgerow.edge.worker import Usage
from hedgerow.protocol import messages, tensors
from hedgerow.protocol.blobs import BlobStore

WORK_SECONDS = 0.1


def load_simulation(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("simulated_fleet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulated_fleet"] = module
    spec.loader.exec_module(module)
    return module


class Arithmetic:
    """A worker that adds a number to every weight."""

    usage = Usage()
    resident_mib = 0.0
    begun: Any = None

    def __init__(self, bench: Any, on_event: Any, simulation: Any) -> None:
        self._results = BlobStore(Path(bench.results))
        self._on_event = on_event
        self._simulation = simulation
        self._wanted = ""

    def start(self, assignment: Any) -> None:
        self._wanted = assignment.task.task
        self.begun(assignment.task.task)
        threading.Timer(WORK_SECONDS, self._work, [assignment]).start()

    def stop(self, task: str) -> None:
        self._wanted = ""

    def close(self) -> None:
        self._wanted = ""

    def _work(self, assignment: Any) -> None:
        task, device = assignment.task, assignment.device
        if self._wanted != task.task:
            return
        metrics, weights = {"loss": 1.0 / task.round, "accuracy": 0.5}, None
        if task.phase == "train":
            start = tensors.decode(Path(assignment.weights).read_bytes())
            delta = np.float32(self._simulation.delta(device, task.round))
            new = {name: value + delta for name, value in start.items()}
            weights = self._results.put(tensors.encode(new), codec="f32")
            metrics = {"train_loss": 1.0 / task.round}
        result = Result(
            task=task.task,
            round=task.round,
            num_examples=self._simulation.examples_of(device),
            metrics=metrics,
            weights=weights,
            seconds=WORK_SECONDS,
        )
        self._on_event(WorkFinished(result))


def watch(history: Path, device: str) -> None:
    """Notes what is durable in the spool, and what the coordinator says of it."""
    add, heard, full = Spool.add, Agent._heard, [0.0]
    signal.signal(signal.SIGUSR1, lambda number, frame: full.__setitem__(0, time.monotonic() + 1.0))

    def note(what: str, **fields: Any) -> None:
        with history.open("a") as file:
            file.write(json.dumps({"what": what, "device": device, **fields}) + "\n")

    def adding(self: Spool, result: Result) -> None:
        if time.monotonic() < full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Killed in between, it has finished without a line that says so.
        note("finishing", task=result.task)
        add(self, result)
        note("finished", task=result.task, sha256=result.weights.sha256 if result.weights else "")

    def hearing(self: Agent, topic: str, payload: bytes) -> Any:
        event = heard(self, topic, payload)
        message = getattr(event, "message", None)
        if isinstance(message, messages.Settled):
            note("settled", task=message.task, accepted=message.accepted, reason=message.reason)
        elif isinstance(message, messages.Cancel):
            note("cancelled", task=message.task)
        return event

    Arithmetic.begun = lambda self, task: note("training", task=task)
    Spool.add = adding  # type: ignore[method-assign]
    Agent._heard = hearing  # type: ignore[method-assign]


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    if len(sys.argv) > 4:
        real, shift = time.time, float(sys.argv[4])
        time.time = lambda: real() + shift
    config = AgentConfig.load(Path(sys.argv[1]))
    simulation = load_simulation(sys.argv[3])
    watch(Path(sys.argv[2]), config.device)
    agent = Agent(config, employ=lambda bench, on_event: Arithmetic(bench, on_event, simulation))
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    agent.run()
    os._exit(0)


if __name__ == "__main__":
    main()
