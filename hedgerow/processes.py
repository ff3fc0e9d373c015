"""Processes that the demo starts and that never outlive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

from .broker import HOST
from .errors import ProcessError

STOP_SECONDS = 5.0


class Interrupted(BaseException):
    """A signal asked us to stop; not an `Exception`, so that nothing on the way swallows it.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruption:
    """Turns SIGINT, SIGTERM and SIGHUP into one `Interrupted`, except where it must not come in between."""

    def __init__(self) -> None:
        self._held = 0
        self._pending = 0
        self._raised = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes inside is raised at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._raise_pending()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        self._raise_pending()

    def _raise_pending(self) -> None:
        # Once is enough: a second Ctrl-C must not interrupt the cleaning up after the first.
        if self._pending and not self._held and not self._raised:
            self._raised = True
            raise Interrupted(self._pending)


class Processes:
    """Child processes with a log file each; all are stopped when the context ends.

    Args:
        logs: The folder of the log files.
        interruption: Held while a process is started, so that none is started and then forgotten.
    """

    def __init__(self, logs: Path, interruption: Interruption) -> None:
        self._logs = logs
        self._interruption = interruption
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(*self._children)

    def start(
        self, name: str, module: str, *arguments: str, capture: bool = False
    ) -> subprocess.Popen[bytes]:
        """Starts `python -m MODULE`.

        Args:
            name: Of the process; its log is `<name>.log`.
            module: To run.
            *arguments: Of the command line.
            capture: Whether standard output is a pipe for the caller; otherwise it goes to the log too.
        """
        command = [sys.executable, "-m", "hedgerow.child", module, *arguments]
        with self._interruption.held(), self.log(name).open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if capture else log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
            self._children[name] = child
        return child

    def log(self, name: str) -> Path:
        """Where a process logs to."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Passes if every process still runs.

        Raises:
            ProcessError: One has ended by itself.
        """
        for name, child in self._children.items():
            if child.poll() is not None:
                raise self.failure(name)

    def failure(self, name: str) -> ProcessError:
        """What to say of a process that ended by itself: its last words."""
        child = self._children[name]
        words = self.log(name).read_text(errors="replace").strip().splitlines()
        last = words[-1] if words else "nothing"
        return ProcessError(
            f"Expected the process {name!r} to run on, received exit code {child.wait()} after: {last}",
            remedy=f"Its log is {self.log(name)}.",
        )

    def stop(self, *names: str) -> None:
        """Asks processes to stop, together, and kills those that do not."""
        children = [self._children[name] for name in names]
        for child in children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            try:
                child.wait(max(deadline - time.monotonic(), 0.05))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            _close(child.stdin)
            _close(child.stdout)
        for name in names:
            del self._children[name]


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, seconds: float = 20.0) -> bool:
    """Whether something listens on `port` of this machine before the time is over or `process` ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _environment() -> dict[str, str]:
    """Ours, without what makes eight agents heavier than they need to be on one machine."""
    return {**os.environ, "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except BrokenPipeError:
            return
