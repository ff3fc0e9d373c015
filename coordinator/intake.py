"""Updates on their way in, each task's chunks in a folder of its own: no device spoils another's."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from ..errors import BlobError
from ..protocol.blobs import BlobStore
from ..protocol.messages import BlobReference, Chunk, Update


class Intake:
    """The updates of the phase in hand.

    Args:
        folder: Made if missing; one folder a task below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._expected: dict[str, BlobReference] = {}
        self._missing: dict[str, set[int]] = {}
        self.bytes_received = 0

    def expect(self, task: str, blob: BlobReference) -> tuple[int, ...]:
        """Gets ready for a task's update; the chunks of it that are not here yet.

        An update that was announced before with another digest is dropped: the device has trained again.
        """
        if self._expected.get(task) != blob:
            store = self._store(task)
            store.keep({blob.sha256})
            self._expected[task] = blob
            self._missing[task] = set(store.missing(blob))
        return tuple(sorted(self._missing[task]))

    def add(self, chunk: Chunk) -> tuple[int, ...] | None:
        """Keeps one chunk; the chunks still missing, or None if it is of no update that is expected.

        Raises:
            BlobError: It does not fit, or the whole update has another digest than announced; all of its
                chunks are then missing again.
            OSError: The disk is full or broken.
        """
        task, number = chunk.header.task, chunk.header.chunk
        blob = self._expected.get(task)
        if blob is None or blob.sha256 != chunk.header.sha256:
            return None
        missing = self._missing[task]
        if number in missing:
            self.bytes_received += len(chunk.data)
            try:
                self._store(task).add_chunk(blob, number, chunk.data)
            except BlobError:
                self._missing[task] = set(self._store(task).missing(blob))
                raise
            missing.discard(number)
        return tuple(sorted(missing))

    def read(self, update: Update) -> bytes:
        """The bytes of a complete update.

        Raises:
            BlobError: It is not here, or the disk has changed it.
        """
        assert update.weights is not None
        return self._store(update.task).read(update.weights)

    def sync(self, updates: Iterable[Update]) -> None:
        """Waits until complete updates are on the disk itself: together, which is three times as fast."""
        for update in updates:
            if update.weights is not None:
                self._store(update.task).sync(update.weights.sha256)

    def drop(self, task: str) -> None:
        """Forgets a task's update."""
        self._expected.pop(task, None)
        self._missing.pop(task, None)
        shutil.rmtree(self._folder / task, ignore_errors=True)

    def keep(self, tasks: Collection[str]) -> None:
        """Forgets every other task's update."""
        for path in self._folder.iterdir():
            if path.name not in tasks:
                self.drop(path.name)

    def _store(self, task: str) -> BlobStore:
        return BlobStore(self._folder / task, synced=False)
