"""Updates on their way in, each task's chunks apart from all others': no device spoils another's."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import BlobError
from ..protocol.blobs import sync
from ..protocol.messages import BlobReference, Chunk, Update

SMALL_BYTES = 1 << 20
HELD_BYTES = 32 << 20
SYNCING_AT_ONCE = 8


class Intake:
    """The updates of the phase in hand: `<task>` for a whole one, `<task>.<number>` for a chunk of one.

    A thousand updates are stored in seconds: nothing is renamed, nothing synced before a batch of whole ones
    is, and the chunks of small ones wait in memory. A file that a crash has cut short is told by its size, or
    by the digest of the whole.

    Args:
        folder: Made if missing.
        small_bytes: Chunks of a larger update are files, so that it goes on after a restart; those of others
            too while `HELD_BYTES` wait in memory.
    """

    def __init__(self, folder: Path, *, small_bytes: int = SMALL_BYTES) -> None:
        self._folder = folder
        self._small_bytes = small_bytes
        self._in_memory: dict[str, dict[int, bytes]] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        self._left_behind = {path.name.split(".", 1)[0] for path in folder.iterdir()}
        self._expected: dict[str, BlobReference] = {}
        self._missing: dict[str, set[int]] = {}
        self.bytes_received = 0

    def path(self, task: str) -> Path:
        """Where a whole update is."""
        return self._folder / task

    def expect(self, task: str, blob: BlobReference) -> tuple[int, ...]:
        """Gets ready for a task's update; the chunks of it that are not here yet.

        An update that was announced before with another digest is dropped: the device has trained again.
        """
        known = self._expected.get(task)
        if known != blob:
            if known is not None:
                self.drop(task)
            self._expected[task] = blob
            self._missing[task] = self._look_for(task, blob)
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
            if len(chunk.data) != blob.chunk_size(number):
                raise BlobError(
                    f"Expected {blob.chunk_size(number)} bytes as chunk {number} of {task},"
                    f" received {len(chunk.data)}."
                )
            self.bytes_received += len(chunk.data)
            if len(missing) == blob.chunks and self._has_room(blob):
                self._in_memory[task] = {}
            if task in self._in_memory:
                self._in_memory[task][number] = chunk.data
            else:
                self._chunk(task, number).write_bytes(chunk.data)
            missing.discard(number)
            if not missing:
                self._put_together(task, blob)
        return tuple(sorted(missing))

    def _has_room(self, blob: BlobReference) -> bool:
        held = sum(self._expected[task].size for task in self._in_memory)
        return blob.size <= self._small_bytes and held + blob.size <= HELD_BYTES

    def read(self, update: Update) -> bytes:
        """The bytes of a whole update.

        Raises:
            BlobError: It is not here, or the disk has changed it.
        """
        assert update.weights is not None
        path = self._folder / update.task
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise BlobError(f"Expected the update {path}, received nothing.") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != update.weights.sha256:
            raise BlobError(f"Expected SHA-256 {update.weights.sha256} of {path}, received {digest}.")
        return data

    def sync(self, updates: Iterable[Update]) -> None:
        """Waits until whole updates are on the disk itself: together, which is three times as fast."""
        paths = [self._folder / update.task for update in updates if update.weights is not None]
        if len(paths) > 1:
            # The file system writes its journal once for all that wait.
            with ThreadPoolExecutor(SYNCING_AT_ONCE) as pool:
                list(pool.map(sync, paths))
        elif paths:
            sync(paths[0])
        if paths:
            sync(self._folder)

    def drop(self, task: str) -> None:
        """Forgets a task's update."""
        blob = self._expected.pop(task, None)
        self._missing.pop(task, None)
        in_files = self._in_memory.pop(task, None) is None
        (self._folder / task).unlink(missing_ok=True)
        for number in range(blob.chunks if blob and in_files else 0):
            self._chunk(task, number).unlink(missing_ok=True)
        self._left_behind.discard(task)

    def keep(self, tasks: Collection[str]) -> None:
        """Forgets every other task's update."""
        for task in self._expected.keys() - set(tasks):
            self.drop(task)
        for path in self._folder.iterdir():
            if path.name.split(".", 1)[0] not in tasks:
                path.unlink(missing_ok=True)

    def _look_for(self, task: str, blob: BlobReference) -> set[int]:
        """What of an update is not here: all of it, unless a coordinator before us has left some."""
        if task not in self._left_behind:
            return set(range(blob.chunks))
        whole = self._folder / task
        if whole.exists():
            if hashlib.sha256(whole.read_bytes()).hexdigest() == blob.sha256:
                return set()
            whole.unlink()
        missing = {
            number
            for number in range(blob.chunks)
            if not (path := self._chunk(task, number)).exists()
            or path.stat().st_size != blob.chunk_size(number)
        }
        if not missing:
            # Of another update, or killed before they were put together: fetched again, which is rare.
            missing = set(range(blob.chunks))
        return missing

    def _put_together(self, task: str, blob: BlobReference) -> None:
        small, numbers = self._in_memory.pop(task, None), range(blob.chunks)
        paths = [self._chunk(task, number) for number in numbers] if small is None else []
        parts = [path.read_bytes() for path in paths] if small is None else [small[n] for n in numbers]
        data = b"".join(parts)
        digest = hashlib.sha256(data).hexdigest()
        try:
            if digest == blob.sha256:
                (self._folder / task).write_bytes(data)
        except OSError:
            self._missing[task] = set(range(blob.chunks))
            raise
        if digest != blob.sha256:
            self._missing[task] = set(range(blob.chunks))
        for path in paths:
            path.unlink()
        if digest != blob.sha256:
            raise BlobError(f"Expected SHA-256 {blob.sha256} of {task}, received chunks with {digest}.")

    def _chunk(self, task: str, number: int) -> Path:
        return self._folder / f"{task}.{number}"
