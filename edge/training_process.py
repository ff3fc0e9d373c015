"""The process that trains: assignments come in as lines of JSON, answers go out the same way.

A process of its own, so that training can be stopped at any moment, a runtime that aborts takes nothing with
it, and its memory goes back to the system. It stays a while after a task, for the next one.
"""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from ..errors import HedgerowError
from ..hardware.lazy_modules import load_when_used
from ..hardware.process import (
    limit_memory,
    loaded_modules,
    peak_mib,
    return_freed_memory,
    return_large_memory_at_once,
)
from .assignment import FORBIDDEN_MODULES, Advance, Answer, Assignment, Bench, Completion, Refusal, Usage

if TYPE_CHECKING:
    from .training import Report

IDLE_SECONDS = 20.0
# numpy 1 loads all of itself at once; numpy 2 does not.
UNUSED_MODULES = ("numpy.fft", "numpy.ma", "numpy.polynomial", "numpy.random")
REPORT_SECONDS = 0.2
logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """The device is needed for something else."""


class Channel:
    """The line to the agent. Nothing else can write to it: standard output goes to the log."""

    def __init__(self) -> None:
        self.stopping = self.working = False
        self._agent = os.getppid()
        self._input = io.FileIO(0)
        self._output = io.FileIO(os.dup(1), "w")
        os.dup2(2, 1)

    def stop(self) -> None:
        """Ends the work at its next step, or the process if there is none."""
        if not self.working:
            raise SystemExit(0)
        self.stopping = True

    def receive(self) -> bytes:
        """The next line; empty when the agent has gone or nothing has come for a while."""
        if not select.select([self._input], [], [], IDLE_SECONDS)[0]:
            return b""
        return self._input.readline()

    def send(self, answer: Answer) -> None:
        """Writes one line; without the agent the work has no purpose and the process ends."""
        if os.getppid() != self._agent:
            raise SystemExit(0)
        self._output.write(msgspec.json.encode(answer) + b"\n")


def answer(assignment: Assignment, bench: Bench, channel: Channel) -> Answer:
    """Carries out one assignment, whatever comes of it."""
    from .training import carry_out

    task = assignment.task.task
    try:
        result = carry_out(assignment, bench, _reporter(task, channel))
        return Completion(result=result, usage=_usage())
    except HedgerowError as error:
        return Refusal(task=task, reason=str(error), usage=_usage())
    except MemoryError:
        limit = f"{bench.memory_limit_mib} MiB" if bench.memory_limit_mib else "the machine's memory"
        return Refusal(task=task, reason=f"Training needs more than {limit}.", usage=_usage())
    except Exception as error:
        logger.exception("unexpected error in %s", task)
        return Refusal(task=task, reason=f"{type(error).__name__}: {error}", usage=_usage())


def _reporter(task: str, channel: Channel) -> Report:
    told = 0.0

    def report(step: Literal["train", "evaluate"], fraction: float) -> None:
        nonlocal told
        if channel.stopping:
            raise Stopped
        now = time.monotonic()
        if now - told >= REPORT_SECONDS:
            told = now
            channel.send(Advance(task=task, step=step, fraction=fraction))

    return report


def _usage() -> Usage:
    return Usage(peak_mib=round(peak_mib(), 1), modules_forbidden=loaded_modules(FORBIDDEN_MODULES))


def main() -> None:
    """Works until the agent closes the line, or asks for nothing for a while."""
    return_large_memory_at_once()
    load_when_used(UNUSED_MODULES)
    # Ctrl-C reaches the whole group; the agent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel()
    signal.signal(signal.SIGTERM, lambda *_: channel.stop())
    if not (line := channel.receive()):
        return
    bench = msgspec.json.decode(line, type=Bench)
    logging.basicConfig(
        stream=sys.stderr,
        level=bench.log_level.upper(),
        format="%(levelname)s %(name)s: %(message)s",
    )
    os.nice(bench.niceness)
    if bench.memory_limit_mib:
        limit_memory(bench.memory_limit_mib)
    while line := channel.receive():
        channel.working = True
        try:
            reply = answer(msgspec.json.decode(line, type=Assignment), bench, channel)
        except Stopped:
            return
        channel.working = False
        return_freed_memory()
        channel.send(reply)


if __name__ == "__main__":
    main()
