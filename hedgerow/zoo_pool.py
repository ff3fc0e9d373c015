"""Several systems verified side by side, each worker process on one processor."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .zoo_row import Row

# One processor each: several systems side by side use all of them, and sums are made in one order.
_ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
}

OnStage = Callable[[str, str], None]


def longest_first(names: Sequence[str], known: Sequence[Row]) -> list[str]:
    """Names in the order that keeps all workers busy to the end: those not yet timed, then the slow ones."""
    seconds = {row.name: row.seconds for row in known}
    return sorted(names, key=lambda name: -seconds.get(name, math.inf))


def verify_all(
    names: Sequence[str],
    options: Path,
    folder: Path,
    *,
    jobs: int,
    on_stage: OnStage,
    on_row: Callable[[Row], None],
) -> None:
    """Verifies systems in their order, a few at a time.

    Args:
        names: Of the systems.
        options: A file with the `VerifyOptions`.
        folder: For the rows and the logs.
        jobs: How many at a time.
        on_stage: Called with a name and what comes next, from several threads.
        on_row: Called with each row, from several threads.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)

    def work(worker: _Worker) -> None:
        try:
            while not worker.stopped:
                on_row(worker.verify(waiting.get_nowait(), on_stage))
        except queue.Empty:
            pass
        finally:
            worker.end()

    workers = [_Worker(options, folder, number) for number in range(min(jobs, len(names)))]
    with ThreadPoolExecutor(max(1, len(workers))) as pool:
        try:
            for _ in pool.map(work, workers):
                pass
        except BaseException:
            while not waiting.empty():
                waiting.get_nowait()
            for worker in workers:
                worker.stop()
            raise


class _Worker:
    """A process that verifies; one that crashed is replaced."""

    def __init__(self, options: Path, folder: Path, number: int) -> None:
        self._options, self._folder = options, folder
        self._log = folder / f"worker-{number}.log"
        self._process: subprocess.Popen[str] | None = None
        self.stopped = False

    def verify(self, name: str, on_stage: OnStage) -> Row:
        """The row of a system; a crash in a worker that had verified others is not yet this one's."""
        fresh = self._process is None
        row, stage = self._ask(name, on_stage)
        if row is None and not fresh and not self.stopped:
            row, stage = self._ask(name, on_stage)
        if row is not None:
            return row
        words = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        return Row(name=name, title="", data="", failure=f"{stage}: the process ended: {words[-1][:300]}")

    def _ask(self, name: str, on_stage: OnStage) -> tuple[Row | None, str]:
        """The row, or None from a process that ended, and the stage it was at."""
        stage = "start"
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            for line in process.stdout:
                of, _, said = line.rstrip("\n").partition("\t")
                if of == name and not said:
                    return msgspec.json.decode((self._folder / f"{name}.json").read_bytes(), type=Row), stage
                if of == name:
                    stage = said
                    on_stage(name, stage)
        self.end()
        return None, stage

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hedgerow.zoo_worker", str(self._options), str(self._folder)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends the process in the midst of what it does."""
        self.stopped = True
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Ends a process that waits for a name."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(BrokenPipeError), process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
