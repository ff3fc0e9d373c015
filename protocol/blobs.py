"""Blobs on disk: complete ones by digest, incomplete ones chunk by chunk, both safe against power loss."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import BlobError
from .messages import CHUNK_BYTES, BlobReference


def reference(data: bytes, *, codec: str = "file", chunk_bytes: int = CHUNK_BYTES) -> BlobReference:
    """Names `data` by its SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    return BlobReference(sha256=digest, size=len(data), chunk_bytes=chunk_bytes, codec=codec)  # type: ignore[arg-type]


def cut(data: bytes, chunk_bytes: int) -> Iterator[bytes]:
    """The chunks of `data` in order."""
    return (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file so that after a crash it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class BlobStore:
    """Blobs in a folder.

    A chunk is a file of its own until the last one has come: a half-finished transfer then goes on after a
    reboot from what the folder holds, without an index that could disagree with it.

    Args:
        folder: Made if missing; `complete/` and `partial/` below it.
    """

    def __init__(self, folder: Path) -> None:
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

    def put(self, data: bytes, *, codec: str = "file") -> BlobReference:
        """Stores `data` and returns its name."""
        blob = reference(data, codec=codec)
        if not self.has(blob):
            write_durably(self.path(blob.sha256), data)
        return blob

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
        folder = self._partial / blob.sha256
        here = (
            {int(path.name) for path in folder.iterdir() if path.name.isdigit()} if folder.exists() else set()
        )
        return tuple(number for number in range(blob.chunks) if number not in here)

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
        write_durably(self._partial / blob.sha256 / str(number), data)
        return not self.missing(blob) and self._finish(blob)

    def _finish(self, blob: BlobReference) -> bool:
        folder = self._partial / blob.sha256
        data = b"".join((folder / str(number)).read_bytes() for number in range(blob.chunks))
        digest = hashlib.sha256(data).hexdigest()
        if digest == blob.sha256:
            write_durably(self.path(blob.sha256), data)
        shutil.rmtree(folder, ignore_errors=True)
        if digest != blob.sha256:
            raise BlobError(f"Expected SHA-256 {blob.sha256}, received chunks whose digest is {digest}.")
        return True

    def remove(self, sha256: str) -> None:
        """Forgets a blob and its chunks."""
        self.path(sha256).unlink(missing_ok=True)
        shutil.rmtree(self._partial / sha256, ignore_errors=True)

    def keep(self, wanted: set[str]) -> None:
        """Removes every blob that is not in `wanted`."""
        for path in (*self._complete.iterdir(), *self._partial.iterdir()):
            if path.name not in wanted:
                self.remove(path.name)
