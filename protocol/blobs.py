"""Blobs on disk: complete ones by digest, incomplete ones chunk by chunk, both safe against power loss."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import BlobError
from .messages import CHUNK_BYTES, BlobReference, Codec


def reference(data: bytes, *, codec: Codec = "file", chunk_bytes: int = CHUNK_BYTES) -> BlobReference:
    """Names `data` by its SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    return BlobReference(sha256=digest, size=len(data), chunk_bytes=chunk_bytes, codec=codec)


def cut(data: bytes, chunk_bytes: int) -> Iterator[bytes]:
    """The chunks of `data` in order."""
    return (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file so that after a power loss it is there whole, or not at all."""
    _write(path, data, durable=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    """Writes a file so that a process killed meanwhile leaves it whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class BlobStore:
    """Blobs in a folder.

    A chunk is a file of its own until the last one has come: a half-finished transfer then goes on after a
    reboot from what the folder holds, without an index that could disagree with it. Chunks are not synced:
    one that a power loss has cut short is fetched again, for the whole blob is synced and its digest checked.

    Args:
        folder: Made if missing; `complete/` and `partial/` below it.
        synced: Whether a blob is on the disk itself as soon as it is complete; if not, `sync` sees to it.
    """

    def __init__(self, folder: Path, *, synced: bool = True) -> None:
        self._synced = synced
        self._complete = folder / "complete"
        self._partial = folder / "partial"
        for path in (self._complete, self._partial):
            path.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the complete blob is or will be."""
        return self._complete / sha256

    def has(self, blob: BlobReference) -> bool:
        """Whether the blob is here, complete."""
        return self.path(blob.sha256).exists()

    def put(self, data: bytes, *, codec: Codec = "file") -> BlobReference:
        """Stores `data` and returns its name."""
        blob = reference(data, codec=codec)
        if not self.has(blob):
            self._complete_with(blob.sha256, data)
        return blob

    def sync(self, sha256: str) -> None:
        """Waits until a complete blob is on the disk itself."""
        sync(self.path(sha256))
        sync(self._complete)

    def read(self, blob: BlobReference) -> bytes:
        """The bytes of a complete blob.

        Raises:
            BlobError: It is not here, or the disk has changed it.
        """
        try:
            data = self.path(blob.sha256).read_bytes()
        except FileNotFoundError as error:
            raise BlobError(f"Expected blob {blob.sha256} in {self._complete}, received nothing.") from error
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            self.path(blob.sha256).unlink(missing_ok=True)
            raise BlobError(
                f"Expected SHA-256 {blob.sha256}, received a file with another one; it was removed."
            )
        return data

    def chunk(self, blob: BlobReference, number: int) -> bytes:
        """One chunk of a complete blob."""
        with self.path(blob.sha256).open("rb") as file:
            file.seek(number * blob.chunk_bytes)
            return file.read(blob.chunk_bytes)

    def missing(self, blob: BlobReference) -> tuple[int, ...]:
        """The chunks that are not here yet; empty for a complete blob."""
        if self.has(blob):
            return ()
        missing = self._missing_chunks(blob)
        if not missing:
            # We were killed between the last chunk and putting all of them together.
            with contextlib.suppress(BlobError):
                self._finish(blob)
                return ()
            return self._missing_chunks(blob)
        return missing

    def _missing_chunks(self, blob: BlobReference) -> tuple[int, ...]:
        folder = self._partial / blob.sha256
        if not folder.exists():
            return tuple(range(blob.chunks))
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        return tuple(n for n in range(blob.chunks) if sizes.get(str(n)) != blob.chunk_size(n))

    def add_chunk(self, blob: BlobReference, number: int, data: bytes) -> bool:
        """Stores one chunk; True when the blob is complete with it.

        Raises:
            BlobError: The number or the size does not fit, or the finished blob has another digest (all its
                chunks are then dropped, so that it is fetched anew).
        """
        if self.has(blob):
            return True
        if number >= blob.chunks or len(data) != blob.chunk_size(number):
            raise BlobError(
                f"Expected {blob.chunks} chunks of {blob.chunk_bytes} bytes for blob {blob.sha256},"
                f" received {len(data)} bytes as chunk {number}."
            )
        _write(self._partial / blob.sha256 / str(number), data, durable=False)
        return not self._missing_chunks(blob) and self._finish(blob)

    def _finish(self, blob: BlobReference) -> bool:
        folder = self._partial / blob.sha256
        data = b"".join((folder / str(number)).read_bytes() for number in range(blob.chunks))
        digest = hashlib.sha256(data).hexdigest()
        if digest == blob.sha256:
            self._complete_with(blob.sha256, data)
        shutil.rmtree(folder, ignore_errors=True)
        if digest != blob.sha256:
            raise BlobError(f"Expected SHA-256 {blob.sha256}, received chunks whose digest is {digest}.")
        return True

    def _complete_with(self, sha256: str, data: bytes) -> None:
        if self._synced:
            write_durably(self.path(sha256), data)
        else:
            _write(self.path(sha256), data, durable=False)

    def remove(self, sha256: str) -> None:
        """Forgets a blob and its chunks."""
        self.path(sha256).unlink(missing_ok=True)
        shutil.rmtree(self._partial / sha256, ignore_errors=True)

    def keep(self, wanted: set[str]) -> None:
        """Removes every blob that is not in `wanted`."""
        for path in (*self._complete.iterdir(), *self._partial.iterdir()):
            if path.name not in wanted:
                self.remove(path.name)
