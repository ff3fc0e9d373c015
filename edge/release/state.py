"""What `current.json` says: which release serves, which one served before, and what was refused."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from ...protocol.blobs import write_durably
from ...protocol.manifest import ModelFile, parse_version

REFUSED_AT_MOST = 32
PASSED_NAME = "passed.json"
logger = logging.getLogger(__name__)


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A release on disk that has passed its self-test.

    Args:
        release: Its name and version, also its folder.
        version: `MAJOR.MINOR.PATCH`.
        model: The model file that serves.
        fallback: The file for the CPU, where `model` needs an accelerator.
        accelerator: The target whose delegate runs `model`; empty for the CPU.
        cpu_because: Why the device's accelerator does not run it.
        floor: The accuracy on the device's own samples that the release asks for.
        accuracy: What was measured last; None where it cannot be.
        proven: A program on this device has predicted with it.
        trials: Programs that began to use it before one succeeded.
    """

    release: str
    version: str
    model: ModelFile
    fallback: ModelFile | None = None
    accelerator: str = ""
    cpu_because: str = ""
    floor: float = 0.0
    accuracy: float | None = None
    proven: bool = False
    trials: int = 0


class ReleaseState(msgspec.Struct, frozen=True, kw_only=True):
    """What `current.json` says.

    Args:
        current: What serves.
        previous: What served before, kept to fall back to.
        highest: The highest version that was ever installed; lower ones are refused.
        refused: Releases that failed here, and why, the last one last.
    """

    current: Installed | None = None
    previous: Installed | None = None
    highest: str = "0.0.0"
    refused: dict[str, str] = {}

    def replaced_by(self, installed: Installed) -> ReleaseState:
        """Another release serves, and this one's becomes the one before."""
        return msgspec.structs.replace(
            self, current=installed, previous=self.current, highest=installed.version
        )

    def fallen_back(self, reason: str) -> ReleaseState:
        """The release before serves again, if there is one; the current one never does."""
        assert self.current is not None
        fallen = msgspec.structs.replace(self, current=self.previous, previous=None)
        return fallen.refusing(self.current.release, reason)

    def refusing(self, release: str, reason: str) -> ReleaseState:
        """A release that failed here is not tried again."""
        others = [(name, why) for name, why in self.refused.items() if name != release]
        kept = [*others, (release, reason[:500])][-REFUSED_AT_MOST:]
        return msgspec.structs.replace(self, refused=dict(kept))


class StateFile:
    """`current.json`, and a counter beside it that says when to read it again.

    The file is replaced as a whole, after every file it names is on disk, so that at any moment, also after a
    crash, it names a release that was verified and passed its test. The counter is kept open: to read its
    eight bytes costs a program that predicts a fraction of what finding `current.json` does. (Mapped into
    memory it would cost less still, and end the program if anything cut the file short.)

    Args:
        folder: Where both lie; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "current.json"
        self._counter = folder / "changes"
        self._open: int | None = None

    def read(self) -> ReleaseState:
        """What serves now; from a damaged file, what the releases' own folders tell."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=ReleaseState)
        except FileNotFoundError:
            return ReleaseState()
        except msgspec.MsgspecError as error:
            recovered = self._recovered()
            logger.error("%s is damaged (%s): found %s", self.path, error, recovered.current)
            with contextlib.suppress(OSError):
                self.write(recovered)
            return recovered

    def write(self, state: ReleaseState) -> None:
        """Changes what serves. Durable on return, and known to every program from then on."""
        write_durably(self.path, msgspec.json.encode(state))
        self.announce()

    def announce(self) -> None:
        """Has every program read the file again."""
        handle = os.open(self._counter, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            count = int.from_bytes(os.pread(handle, 8, 0), "little")
            os.pwrite(handle, (count + 1).to_bytes(8, "little"), 0)
        finally:
            os.close(handle)

    def version(self) -> bytes:
        """Another value whenever the file may have changed."""
        if self._open is None:
            with contextlib.suppress(OSError):
                self._open = os.open(self._counter, os.O_RDONLY | os.O_CLOEXEC)
        return self._stamp() if self._open is None else os.pread(self._open, 8, 0)

    def watch(self) -> Callable[[], bytes]:
        """What `version` gives, to be asked often; until `close`."""
        self.version()
        return self.version if self._open is None else partial(os.pread, self._open, 8, 0)

    def close(self) -> None:
        """Lets go of the counter."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _recovered(self) -> ReleaseState:
        """The two newest releases that were tried and passed."""
        found = []
        for path in self.path.parent.glob(f"*/{PASSED_NAME}"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Installed))
        found.sort(key=lambda one: parse_version(one.version), reverse=True)
        current, previous = (*found, None, None)[:2]
        highest = current.version if current is not None else "0.0.0"
        return ReleaseState(current=current, previous=previous, highest=highest)

    def _stamp(self) -> bytes:
        """What the disk says of the file, where there is no counter yet."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return b""
        return f"{found.st_ino} {found.st_mtime_ns}".encode()
