"""Where tasks are carried out: a training process, kept, stopped and replaced as needed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ..hardware.process import resident_mib
from .assignment import Advance, Answer, Assignment, Bench, Completion, Refusal, Usage
from .session.events import WorkFailed, WorkFinished, WorkProgressed

GRACE_SECONDS = 0.7
CLOSE_SECONDS = 0.3
WorkEvent = WorkProgressed | WorkFinished | WorkFailed
logger = logging.getLogger(__name__)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)  # type: ignore[arg-type]


class Worker(Protocol):
    """Carries out one task at a time and says how it goes as events."""

    @property
    def usage(self) -> Usage:
        """What the work has needed so far."""

    @property
    def resident_mib(self) -> float:
        """Memory that it has in RAM now, outside this process."""

    def start(self, assignment: Assignment) -> None:
        """Begins a task; the one before has ended or was stopped."""

    def stop(self, task: str) -> None:
        """Gives a task up; nothing more is said about it."""

    def close(self) -> None:
        """Gives everything up."""


class ProcessWorker:
    """A `Worker` in a process of its own.

    Args:
        bench: What the work is done with.
        on_event: Called in a thread of the worker: hand the event on, do nothing else.
        command: Starts a process that takes and gives the lines of `training_process`.
    """

    def __init__(
        self,
        bench: Bench,
        on_event: Callable[[WorkEvent], None],
        *,
        command: Sequence[str] = (sys.executable, "-m", f"{__package__}.training_process"),
    ) -> None:
        self._bench = bench
        self._on_event = on_event
        self._command = command
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving: subprocess.Popen[bytes] | None = None
        self._assignment: Assignment | None = None
        self._restarted = False
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """What the training processes have needed so far."""
        return self._usage

    @property
    def resident_mib(self) -> float:
        """Memory of the training process, 0.0 without one."""
        process = self._process
        return resident_mib(process.pid) if process is not None else 0.0

    def start(self, assignment: Assignment) -> None:
        """Begins a task; the one before has ended or was stopped."""
        with self._lock:
            self._restarted = False
            self._begin(assignment)

    def stop(self, task: str) -> None:
        """Ends the process that works on the task: it writes down where it stands, or is killed."""
        with self._lock:
            if self._assignment is None or self._assignment.task.task != task:
                return
            process, self._process, self._assignment = self._process, None, None
        if process is not None:
            process.terminate()
            self._leaving = process
            timer = threading.Timer(GRACE_SECONDS, process.kill)
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """Ends the process, at once unless it is writing down where it stands."""
        with self._lock:
            process, self._process, self._assignment = self._process, None, None
        if self._leaving is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._leaving.wait(CLOSE_SECONDS)
        for one in (process, self._leaving):
            if one is not None:
                one.kill()
                one.wait()

    def _begin(self, assignment: Assignment) -> None:
        self._assignment = assignment
        if self._process is None:
            self._process = self._spawn()
        self._tell(self._process, assignment)

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # One heap, and no pool of threads that multiply matrices in numpy: 10 MiB less.
            env=os.environ | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        for task in (self._listen, _relay):
            threading.Thread(target=task, args=(process,), name="training", daemon=True).start()
        self._tell(process, self._bench)
        return process

    def _tell(self, process: subprocess.Popen[bytes], line: msgspec.Struct) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(line) + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            # A closed file is a ValueError: the listener has seen the end before us.
            logger.debug("the training process has gone; its listener starts another one")

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        with process.stdout, process.stdin:
            for line in process.stdout:
                self._hear(process, _answers.decode(line))
        self._gone(process, process.wait())

    def _hear(self, process: subprocess.Popen[bytes], answer: Answer) -> None:
        with self._lock:
            if process is not self._process:
                return
            if not isinstance(answer, Advance):
                self._assignment = None
                self._usage = answer.usage
        match answer:
            case Advance(task=task, step=step, fraction=fraction):
                self._on_event(WorkProgressed(task, step, fraction))
            case Completion(result=result):
                self._on_event(WorkFinished(result))
            case Refusal(task=task, reason=reason):
                self._on_event(WorkFailed(task, reason))

    def _gone(self, process: subprocess.Popen[bytes], code: int) -> None:
        """An idle process ended just as a task came, or a working one died."""
        with self._lock:
            if process is not self._process:
                return
            self._process = None
            assignment = self._assignment
            if assignment is None:
                return
            if code == 0 and not self._restarted:
                self._restarted = True
                self._begin(assignment)
                return
            self._assignment = None
        how = f"with signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._on_event(WorkFailed(assignment.task.task, f"The training process ended {how}."))


def _relay(process: subprocess.Popen[bytes]) -> None:
    """What the process and the libraries in it say on standard error goes into the agent's log."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            logger.info("training: %s", line.decode(errors="replace").rstrip())
