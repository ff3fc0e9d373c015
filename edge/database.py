"""SQLite files that survive a power loss, and what is left of them when a disk does not."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BUSY_SECONDS = 20.0
logger = logging.getLogger(__name__)


def open_database(
    path: Path, tables: str, *, salvage: Callable[[Path, sqlite3.Connection], int] | None = None
) -> sqlite3.Connection:
    """Opens a database in write-ahead mode, every commit synced; several processes may have it open.

    A damaged file is never written to again: it is put aside under another name and a new one begun.

    Args:
        path: The file; its folder exists.
        tables: The statements that make the tables where they are missing.
        salvage: Copies what can be read of the damaged file into the new one and returns how many rows.

    Raises:
        sqlite3.OperationalError: The disk is full, read-only or failing.
    """
    try:
        return _connect(path, tables)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        damage = error
    with _alone(path):
        # Another process may have put it aside while this one waited.
        with contextlib.suppress(sqlite3.DatabaseError):
            return _connect(path, tables)
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
        database = _connect(path, tables)
        rows = salvage(aside, database) if salvage else 0
        logger.error("%s is damaged (%s): kept as %s, %d rows saved", path, damage, aside.name, rows)
        return database


def _connect(path: Path, tables: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        database.executescript(tables)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything in it, or nothing; the write lock is taken at once, so that what was read stays true."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        # After a full disk SQLite has rolled back by itself.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
