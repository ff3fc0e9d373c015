"""One coordinator a folder: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CoordinatorConflictError, JournalError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder, made if missing.

    Raises:
        CoordinatorConflictError: Another process holds it.
        JournalError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "coordinator.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(f"Expected a folder that can be written, received: {error}.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CoordinatorConflictError(
                f"Expected a folder of one coordinator, received {folder}, which another process uses."
            ) from error
        yield
    finally:
        os.close(handle)
