"""What the agent may not lose: finished results until the coordinator has stored them, and its incarnation.

A SQLite file in write-ahead mode, synced at every commit, and the weights as blobs beside it. The blob is on
disk before its row, and the row goes before the blob: a crash leaves at most a blob without a row, which the
next start removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ..errors import BlobError, SpoolError
from ..protocol.blobs import BlobStore
from ..protocol.messages import BlobReference
from .database import open_database, transaction
from .result import Result

LOCK_NAME = "agent.lock"
SPOOL_FOLDER = "spool"
TRAINED_AT = "samples added at the last training"
OVER_AT_MOST = 512
_TABLES = """
CREATE TABLE IF NOT EXISTS starts (incarnation INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS results (task TEXT PRIMARY KEY, result BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS over (number INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL UNIQUE);
"""
logger = logging.getLogger(__name__)


class Spool:
    """The agent's durable memory. A context manager; one agent at a time.

    Args:
        folder: The agent's state folder, made if missing.

    Raises:
        SpoolError: The folder cannot be written, or another agent uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spool.db"
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / LOCK_NAME)
            try:
                self.blobs = BlobStore(folder / SPOOL_FOLDER)
                self._database = open_database(self._path, _TABLES)
                self._tidy()
            except BaseException:
                os.close(self._lock)
                raise

    def begin(self) -> int:
        """Counts a start of the agent and returns the new incarnation.

        The first one in a new folder is the time of day in seconds, so that a device whose disk was replaced
        comes back with a higher number than it had. No clock is read after that.
        """
        with _translated(self._path), transaction(self._database) as database:
            (last,) = database.execute("SELECT max(incarnation) FROM starts").fetchone()
            incarnation = int(time.time()) if last is None else int(last) + 1
            database.execute("DELETE FROM starts")
            database.execute("INSERT INTO starts VALUES (?)", (incarnation,))
        return incarnation

    def results(self) -> tuple[Result, ...]:
        """What waits to be settled, in order of completion."""
        rows = self._database.execute("SELECT result FROM results ORDER BY rowid")
        return tuple(msgspec.json.decode(row[0], type=Result) for row in rows)

    def over(self) -> tuple[str, ...]:
        """The tasks that were settled or cancelled last, the newest last."""
        rows = self._database.execute("SELECT task FROM over ORDER BY number").fetchall()
        return tuple(row[0] for row in rows)

    def add(self, result: Result) -> None:
        """Keeps a result, whose weights are already in `blobs`. Durable on return.

        Raises:
            SpoolError: The disk is full or broken.
        """
        with _translated(self._path), transaction(self._database) as database:
            database.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?)", (result.task, msgspec.json.encode(result))
            )

    def forget(self, task: str) -> None:
        """Removes a task's result and remembers that the task is over. Durable on return."""
        gone = [result.weights for result in self.results() if result.task == task]
        with _translated(self._path), transaction(self._database) as database:
            database.execute("DELETE FROM results WHERE task = ?", (task,))
            database.execute("INSERT OR IGNORE INTO over (task) VALUES (?)", (task,))
            database.execute(
                "DELETE FROM over WHERE number <= (SELECT max(number) FROM over) - ?", (OVER_AT_MOST,)
            )
        for weights in gone:
            if weights:
                self.discard(weights)

    def discard(self, weights: BlobReference) -> None:
        """Removes a blob unless a result still needs it."""
        if weights.sha256 not in self._wanted():
            self.blobs.remove(weights.sha256)

    def mark(self, name: str, value: int) -> None:
        """Remembers a number."""
        with _translated(self._path), transaction(self._database) as database:
            database.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))

    def marked(self, name: str) -> int:
        """The number last remembered under that name, or 0."""
        row = self._database.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Closes the files."""
        self._database.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _tidy(self) -> None:
        for result in self.results():
            try:
                if result.weights:
                    self.blobs.read(result.weights)
            except BlobError as error:
                logger.error("the result of %s is lost: %s", result.task, error)
                with transaction(self._database) as database:
                    database.execute("DELETE FROM results WHERE task = ?", (result.task,))
        self.blobs.keep(self._wanted())

    def _wanted(self) -> set[str]:
        return {result.weights.sha256 for result in self.results() if result.weights}


@dataclass(frozen=True, slots=True)
class SpoolSummary:
    """What a look at a state folder tells, also while an agent uses it."""

    incarnation: int
    waiting: tuple[str, ...]
    over: int

    @classmethod
    def read(cls, folder: Path) -> SpoolSummary:
        """Reads the summary without changing anything.

        Raises:
            SpoolError: There is no spool in the folder.
        """
        path = folder / "spool.db"
        if not path.exists():
            raise SpoolError(
                f"Expected the state folder of an agent, received {folder} without a spool.db.",
                remedy="Start the agent once, as the user that owns the folder.",
            )
        with (
            _translated(path),
            contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database,
        ):
            (incarnation,) = database.execute("SELECT max(incarnation) FROM starts").fetchone()
            waiting = database.execute("SELECT task FROM results ORDER BY rowid").fetchall()
            (over,) = database.execute("SELECT count(*) FROM over").fetchone()
        return cls(incarnation or 0, tuple(row[0] for row in waiting), over)


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise SpoolError(
            f"Expected {path.parent} for this agent alone, received a folder that another one uses."
        ) from error
    return handle


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(f"Expected to read and write {path}, received: {error}.") from error
