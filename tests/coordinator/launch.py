"""Runs a real coordinator on a stand-in for the trainable file, and kills it at transitions of its journal.

    python launch.py CONFIG NUMBERS [WHERE COUNT]

NUMBERS: how many weights the model has. WHERE and COUNT: every life of the coordinator ends by SIGKILL
"before" or "after" its write number COUNT to the journal, and another begins, until one comes to an end by
itself: with COUNT 2, each transition of a run is met once. Each life is a fork, so that nothing is imported
again. What it was killed at goes to `kills` beside CONFIG, a line each; events go to standard output.
SIGUSR1: the disk is full for a second. With LAUNCH_COMMANDS in the environment, a line for every command to a
device goes to that file: when it was sent, the device, and the message's counter. With LAUNCH_BUFFER, rounds
are asynchronous: each closes after so many updates, and late ones count less.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow.coordinator import daemon
from hedgerow.coordinator.config import CoordinatorConfig
from hedgerow.coordinator.daemon import Coordinator, Stopped
from hedgerow.coordinator.events import Event, to_line
from hedgerow.coordinator.exchange import Exchange
from hedgerow.coordinator.intake import Intake
from hedgerow.coordinator.journal import Journal
from hedgerow.coordinator.policy import Standing, StragglerPolicy, TargetOrDeadline
from hedgerow.errors import HedgerowError

LIVES_AT_MOST = 400


@dataclass(frozen=True)
class Buffered:
    """FedBuff's rule (arxiv.org/abs/2106.06639): a round is over after so many updates, of any round."""

    size: int
    seconds: float

    def closes(self, standing: Standing) -> str:
        if standing.stored >= self.size:
            return "full"
        if standing.stored + standing.failed >= standing.asked:
            return "all ended"
        return "deadline" if standing.seconds >= self.seconds else ""

    def late(self, rounds_late: int) -> str:
        return "" if rounds_late <= 3 else "It is more than three rounds late."

    def share(self, rounds_late: int) -> float:
        return float((1 + rounds_late) ** -0.5)


class Program:
    """Stands in for a trainable file: only its names and its first weights are asked for."""

    def __init__(self, numbers: int) -> None:
        kernel = np.linspace(-1, 1, numbers, dtype=np.float32)
        self._weights = {"dense/kernel": kernel.reshape(2, -1), "dense/bias": np.zeros(3, np.float32)}

    def signatures(self) -> dict[str, Any]:
        class Signature:
            outputs = ("loss_sum", "accuracy_sum", "weight_sum")

        return dict.fromkeys(("get_weights", "set_weights", "train", "evaluate"), Signature)

    def run(self, signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        assert signature == "get_weights"
        return dict(self._weights)

    def close(self) -> None:
        return


def kill_at(where: str, count: int, kills: Path) -> None:
    """Makes the journal end this process at its write `count`."""
    execute, written = Journal._execute, [0]

    def die(table: Any) -> None:
        with kills.open("a") as file:
            file.write(f"{table.name}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self: Journal, table: Any, *statement: Any) -> None:
        written[0] += 1
        if (where, count) == ("before", written[0]):
            die(table)
        execute(self, table, *statement)
        if (where, count) == ("after", written[0]):
            die(table)

    Journal._execute = counted  # type: ignore[method-assign]


def fill_the_disk_at_sigusr1() -> None:
    """For a second after the signal, no chunk can be stored."""
    add, full = Intake.add, [0.0]
    signal.signal(signal.SIGUSR1, lambda number, frame: full.__setitem__(0, time.monotonic() + 1.0))

    def adding(self: Intake, chunk: Any) -> Any:
        if time.monotonic() < full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add(self, chunk)

    Intake.add = adding  # type: ignore[method-assign]


def end_with_parent() -> None:
    """The test kills only the process that it has started (prctl(2): PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def note_commands(path: str) -> None:
    send, file = Exchange._send, Path(path).open("a")  # noqa: SIM115

    def sending(self: Exchange, kind: Any, device: str, **fields: Any) -> None:
        send(self, kind, device, **fields)
        file.write(f"{time.time():.6f} {device} {self._counter}\n")

    Exchange._send = sending  # type: ignore[method-assign]
    atexit.register(file.close)


def live(config: CoordinatorConfig, numbers: int) -> int:
    program = Program(numbers)
    fill_the_disk_at_sigusr1()
    daemon._load_program = lambda model: program  # type: ignore[assignment, return-value]
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))

    def tell(event: Event) -> None:
        sys.stdout.buffer.write(to_line(event))
        sys.stdout.buffer.flush()

    size = int(os.environ.get("LAUNCH_BUFFER", "0"))

    def policy(target: int, seconds: float) -> StragglerPolicy:
        return Buffered(size, seconds) if size else TargetOrDeadline(target, seconds)

    try:
        with Coordinator(
            config, listener=tell, stopping=lambda: bool(stopping), policy=policy
        ) as coordinator:
            coordinator.run()
    except Stopped:
        return 0
    except HedgerowError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    path, numbers = Path(sys.argv[1]), int(sys.argv[2])
    if "LAUNCH_COMMANDS" in os.environ:
        note_commands(os.environ["LAUNCH_COMMANDS"])
    config = CoordinatorConfig.load(path)
    if len(sys.argv) == 3:
        return live(config, numbers)
    for _ in range(LIVES_AT_MOST):
        child = os.fork()
        if child == 0:
            end_with_parent()
            kill_at(sys.argv[3], int(sys.argv[4]), path.with_name("kills"))
            code = 1
            try:
                code = live(config, numbers)
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
    return 99


if __name__ == "__main__":
    sys.exit(main())
