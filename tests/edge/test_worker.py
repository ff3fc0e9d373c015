"""The training process: stopped, killed, crashed, limited, idle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.edge import training_process
from hedgerow.edge.assignment import Assignment, Bench
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.session.events import WorkFailed, WorkFinished, WorkProgressed
from hedgerow.edge.worker import ProcessWorker, WorkEvent
from hedgerow.hardware.process import resident_mib
from hedgerow.protocol.messages import BlobReference, Task

Fixture = Any
BLOB = BlobReference(sha256="a" * 64, size=10)


class Desk:
    """A worker, and what it said."""

    def __init__(self, folder: Path, model: Any) -> None:
        (folder / "program").write_bytes(model.program)
        (folder / "weights").write_bytes(model.weights)
        y = np.arange(64, dtype=np.int32) % 3
        np.savez(folder / "train.npz", x=np.ones((64, 8, 8, 1), np.float32) * y[:, None, None, None], y=y)
        self.folder = folder
        self.said: SimpleQueue[WorkEvent] = SimpleQueue()
        self.worker: ProcessWorker | None = None

    def employ(self, **fields: Any) -> ProcessWorker:
        results = str(self.folder / "results")
        bench = Bench(samples=str(self.folder), sampling=SamplePolicy(), results=results, **fields)
        self.worker = ProcessWorker(bench, self.said.put)
        return self.worker

    def assignment(self, name: str = "t", *, epochs: int = 1, program: str = "program") -> Assignment:
        task = Task(
            device="d1", epoch=1, counter=1, task=name, round=1, phase="train",
            program=BLOB, weights=BLOB, config={"epochs": epochs, "learning-rate": 0.01},
        )  # fmt: skip
        files = {"program": str(self.folder / program), "weights": str(self.folder / "weights")}
        return Assignment(device="d1", task=task, **files)

    def wait(self, kind: type[Any], seconds: float = 60.0) -> Any:
        until = time.monotonic() + seconds
        while not isinstance(event := self.said.get(timeout=max(until - time.monotonic(), 0.01)), kind):
            assert isinstance(event, WorkProgressed), event
        return event


@pytest.fixture
def desk(tmp_path: Path, model: Fixture) -> Iterator[Desk]:
    desk = Desk(tmp_path, model)
    yield desk
    if desk.worker is not None:
        desk.worker.close()


def pid_of(worker: ProcessWorker) -> int:
    assert worker._process is not None
    return worker._process.pid


def test_one_process_serves_several_tasks_and_its_weights_are_the_same_each_time(desk: Desk) -> None:
    worker = desk.employ(niceness=7)
    worker.start(desk.assignment())
    first = desk.wait(WorkFinished)
    pid = pid_of(worker)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 7, 19)
    worker.start(desk.assignment())
    second = desk.wait(WorkFinished)
    assert pid_of(worker) == pid
    assert first.result.weights == second.result.weights
    assert (desk.folder / "results" / "complete" / first.result.weights.sha256).exists()
    assert worker.usage.modules_forbidden == ()
    assert 20 < worker.resident_mib <= worker.usage.peak_mib < 100


def test_the_process_loads_nothing_that_training_does_not_need(desk: Desk) -> None:
    bench = Bench(samples=str(desk.folder), sampling=SamplePolicy(), results=str(desk.folder / "results"))
    lines = b"".join(msgspec.json.encode(line) + b"\n" for line in (bench, desk.assignment()))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hedgerow.edge.training_process"],
        input=lines, capture_output=True, timeout=60,
    )  # fmt: skip
    assert b"Completion" in done.stdout
    loaded = {line.rpartition(b"|")[2].strip().decode() for line in done.stderr.splitlines() if b"|" in line}
    assert {"numpy", "hedgerow.edge.trainer"} <= loaded
    # Each costs a MiB or more; the parts of numpy are loaded when something asks them for anything.
    idle = {"numpy.random.mtrand", "numpy.ma.core", "numpy.fft._pocketfft", "numpy.polynomial.polynomial"}
    needless = {
        "email",
        "importlib.metadata",
        "sqlite3",
        "ssl",
        "paho",
        "cryptography",
        "hedgerow.edge.session",
    }
    assert not loaded & (idle | needless)


def test_a_part_that_is_loaded_when_used_is_whole_then() -> None:
    script = """if True:
        import sys
        from hedgerow.hardware.lazy_modules import load_when_used
        load_when_used(["numpy.random", "numpy.ma"])
        import numpy
        assert "numpy.random.mtrand" not in sys.modules
        assert 0 <= numpy.random.default_rng(0).integers(5) < 5
        assert numpy.ma.masked_equal([1, 2], 2).sum() == 1
        from numpy.random import Generator
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_stopped_task_ends_at_once_and_says_nothing_more(desk: Desk) -> None:
    worker = desk.employ()
    worker.start(desk.assignment(epochs=5000))
    desk.wait(WorkProgressed)
    pid, begun = pid_of(worker), time.monotonic()
    worker.stop("t")
    assert time.monotonic() - begun < 0.1
    while resident_mib(pid) > 0.0:
        assert time.monotonic() - begun < 1.0
        time.sleep(0.01)
    worker.stop("t")
    worker.start(desk.assignment("u"))
    assert desk.wait(WorkFinished).result.task == "u"


def test_a_process_that_is_killed_fails_its_task_and_the_next_one_works(desk: Desk) -> None:
    worker = desk.employ()
    worker.start(desk.assignment(epochs=5000))
    desk.wait(WorkProgressed)
    os.kill(pid_of(worker), signal.SIGKILL)
    assert desk.wait(WorkFailed).reason == "The training process ended with signal SIGKILL."
    worker.start(desk.assignment("u"))
    desk.wait(WorkFinished)


def test_a_file_that_is_no_program_fails_the_task(desk: Desk) -> None:
    (desk.folder / "other").write_bytes(b"nothing that trains" * 100)
    worker = desk.employ()
    worker.start(desk.assignment(program="other"))
    assert "other" in desk.wait(WorkFailed).reason


def test_training_that_needs_more_memory_than_it_may_have_fails_its_task_only(desk: Desk) -> None:
    worker = desk.employ(memory_limit_mib=60)
    many = np.zeros((200_000, 8, 8, 1), np.float32)
    np.savez(desk.folder / "train.npz", x=many, y=np.zeros(len(many), np.int32))
    worker.start(desk.assignment())
    assert desk.wait(WorkFailed).reason == "Training needs more than 60 MiB."


@pytest.mark.slow
def test_an_idle_process_ends_and_another_takes_the_next_task(desk: Desk) -> None:
    worker = desk.employ()
    worker.start(desk.assignment())
    desk.wait(WorkFinished)
    pid = pid_of(worker)
    time.sleep(training_process.IDLE_SECONDS + 3.0)
    assert worker.resident_mib == 0.0
    worker.start(desk.assignment("u"))
    desk.wait(WorkFinished)
    assert pid_of(worker) != pid


def test_the_process_ends_when_its_agent_is_gone(desk: Desk) -> None:
    worker = desk.employ()
    worker.start(desk.assignment())
    desk.wait(WorkFinished)
    process = worker._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=5) == 0
