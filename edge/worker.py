"""Where tasks are carried out, apart from the loop that listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal, Protocol

from ..errors import HedgerowError
from .session.events import WorkFailed, WorkFinished, WorkProgressed
from .training import Assignment, Bench, carry_out

WorkEvent = WorkProgressed | WorkFinished | WorkFailed
logger = logging.getLogger(__name__)


class Worker(Protocol):
    """Carries out one task at a time and says how it goes as events."""

    def start(self, assignment: Assignment) -> None:
        """Begins a task, after the one in hand has ended."""

    def stop(self, task: str) -> None:
        """Gives a task up; nothing more is said about it."""

    def close(self, *, timeout_seconds: float) -> None:
        """Gives everything up."""


class _StoppedError(Exception):
    """The task in hand is no longer wanted."""


class ThreadWorker:
    """A `Worker` in a thread of this process; the runtimes free Python's lock while they compute.

    Args:
        bench: What the work is done with.
        on_event: Called in the worker's thread: hand the event on, do nothing else.
    """

    def __init__(self, bench: Bench, on_event: Callable[[WorkEvent], None]) -> None:
        self._bench = bench
        self._on_event = on_event
        self._waiting: SimpleQueue[Assignment | None] = SimpleQueue()
        self._stopped: set[str] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def start(self, assignment: Assignment) -> None:
        """Begins a task, after the one in hand has ended."""
        self._stopped.discard(assignment.task.task)
        self._waiting.put(assignment)

    def stop(self, task: str) -> None:
        """Gives a task up at its next training step."""
        self._stopped.add(task)

    def close(self, *, timeout_seconds: float) -> None:
        """Gives everything up and waits for the step in hand, at most `timeout_seconds`."""
        self._closing = True
        self._waiting.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (assignment := self._waiting.get()) is not None:
            task = assignment.task.task
            try:
                self._check_wanted(task)
                self._on_event(WorkFinished(carry_out(assignment, self._bench, self._reporter(task))))
            except _StoppedError:
                logger.info("stopped %s", task)
            except HedgerowError as error:
                self._on_event(WorkFailed(task, str(error)))
            except Exception as error:
                logger.exception("unexpected error in %s", task)
                self._on_event(WorkFailed(task, f"{type(error).__name__}: {error}"))
            self._stopped.discard(task)

    def _reporter(self, task: str) -> Callable[[Literal["train", "evaluate"], float], None]:
        def report(step: Literal["train", "evaluate"], fraction: float) -> None:
            self._check_wanted(task)
            self._on_event(WorkProgressed(task, step, fraction))

        return report

    def _check_wanted(self, task: str) -> None:
        if self._closing or task in self._stopped:
            raise _StoppedError
