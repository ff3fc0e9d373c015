"""The folder of a release: there completely and for good, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import DiskError, ManifestError, ReleaseBuildError
from ..protocol import manifest as manifests

MANIFEST = "manifest.json"
"""Name of the manifest in it."""

_PREFIX = ".building-"


def destination_of(folder: Path, name: str, version: str) -> Path:
    """Where the release will be: `<name>-<version>` in `folder`.

    Raises:
        ReleaseBuildError: A release of that name with this version or a higher one is there.
    """
    wanted = manifests.parse_version(version)
    for other in folder.glob(f"{name}-*/{MANIFEST}"):
        found = other.parent.name.removeprefix(f"{name}-")
        with contextlib.suppress(ManifestError):
            if manifests.parse_version(found) >= wanted:
                raise ReleaseBuildError(
                    f"Expected a version above {found}, which is in {str(folder)!r}; received {version}."
                )
    return folder / f"{name}-{version}"


def prepare(folder: Path) -> None:
    """Makes the folder that releases live in, and removes what killed processes were building there.

    Raises:
        DiskError: It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DiskError(f"Cannot write to {str(folder)!r}: {error.strerror}.") from error


@contextlib.contextmanager
def aside(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that becomes it by one rename if nothing fails, and vanishes otherwise.

    Raises:
        DiskError: The disk failed.
    """
    prepare(destination.parent)
    try:
        building = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=destination.parent))
        lock = os.open(building, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise DiskError(f"Cannot write to {str(destination.parent)!r}: {error.strerror}.") from error
    try:
        yield building
        building.chmod(0o755)
        _sync(building)
        building.rename(destination)
        _sync(destination.parent)
    except OSError as error:
        raise DiskError(f"Cannot write the release {destination.name!r}: {error.strerror}.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
        os.close(lock)


def _sweep(folder: Path) -> None:
    """Removes what other processes were building, unless they still hold its lock."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(lock)


def write(path: Path, content: str | Path | bytes) -> None:
    """Writes bytes, or a copy of a file, and waits until they are on the disk."""
    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
