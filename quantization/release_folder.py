"""The folder of a release: there completely and for good, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import ManifestError, ReleaseBuildError
from ..protocol import manifest as manifests

MANIFEST = "manifest.json"
"""Name of the manifest in it."""


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


@contextlib.contextmanager
def aside(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that becomes it by one rename if nothing fails, and vanishes otherwise.

    Raises:
        ReleaseBuildError: The disk failed.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=destination.parent))
    except OSError as error:
        raise ReleaseBuildError(f"Cannot write to {str(destination.parent)!r}: {error.strerror}.") from error
    try:
        yield building
        building.chmod(0o755)
        _sync(building)
        building.rename(destination)
        _sync(destination.parent)
    except OSError as error:
        raise ReleaseBuildError(
            f"Cannot write the release {destination.name!r}: {error.strerror}."
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


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
