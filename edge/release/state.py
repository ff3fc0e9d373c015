"""What `current.json` says: which release serves, which one served before, and what was refused."""

from __future__ import annotations

import contextlib
import logging
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
        """Another release serves, and this one's becomes the one before.

        A state that was recovered from the folders may name the other one already.
        """
        again = self.current is not None and self.current.release == installed.release
        previous = self.previous if again else self.current
        return msgspec.structs.replace(self, current=installed, previous=previous, highest=installed.version)

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
    """`current.json`.

    It is replaced as a whole, after every file it names is on disk, so that at any moment, also after a
    crash, it names a release that was verified and passed its test.

    Args:
        folder: Where it lies; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "current.json"

    def read(self) -> ReleaseState:
        """What serves now; without the file, or from a damaged one, what the releases' own folders tell."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=ReleaseState)
        except FileNotFoundError:
            return self._recovered()
        except msgspec.MsgspecError as error:
            recovered = self._recovered()
            logger.error("%s is damaged (%s): found %s", self.path, error, recovered.current)
            with contextlib.suppress(OSError):
                self.write(recovered)
            return recovered

    def write(self, state: ReleaseState) -> None:
        """Changes what serves. Durable on return, and seen by every program at its next look."""
        write_durably(self.path, msgspec.json.encode(state))

    def stamp(self) -> tuple[int, int]:
        """Another value whenever the file may have changed."""
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

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
