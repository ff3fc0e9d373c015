"""The agent's hands for releases: judging at once, installing beside the loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...errors import HedgerowError
from ...protocol.blobs import BlobStore
from ...protocol.messages import BlobReference, Scalar
from ...protocol.signatures import verify_manifest
from ..config import AgentConfig
from ..sample_count import count_samples
from ..session.events import ReleaseChanged, ReleaseInstalled, ReleaseJudged, ReleaseOffered, ReleaseRefused
from .state import ReleaseState
from .store import ReleaseStore

Event = ReleaseInstalled | ReleaseOffered | ReleaseRefused | ReleaseChanged

# After a failure of the disk a release is tried again.
RETRY_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Installer:
    """Judges and installs the releases that a channel offers, and watches over the one that serves.

    Args:
        config: The agent's.
        blobs: Where the files of a release are fetched to.
        on_event: Called in the installing thread: hand the event on, do nothing else.
    """

    def __init__(self, config: AgentConfig, blobs: BlobStore, on_event: Callable[[Event], None]) -> None:
        self._device = config.device
        self._samples = Path(config.samples)
        self._samples_at_least = config.accuracy_samples
        self._store = ReleaseStore.of_device(config)
        self._blobs = blobs
        self._on_event = on_event
        self._refused = ""
        self._busy = threading.Lock()
        self._told = ReleaseState()
        self._told = self._state()
        self._postponed: tuple[bytes, float] | None = None
        self._measured = count_samples(self._samples, "test")

    def judge(self, signed: bytes) -> ReleaseJudged | ReleaseRefused | None:
        """Whether the release may run here, and the blobs of its files; None if it is not for us now."""
        try:
            manifest = verify_manifest(signed, self._store.keys)
            current = self._state().current
            if current is not None and current.release == manifest.release:
                return None
            if not manifest.reaches(self._device):
                logger.info("%s has not reached this device yet", manifest.release)
                return None
            _, files = self._store.check(signed)
        except (HedgerowError, OSError) as error:
            self._refused = (
                str(error.args[0]) if isinstance(error, HedgerowError) else self._postpone(signed, error)
            )
            return ReleaseRefused(signed, self._refused)
        return ReleaseJudged(signed, tuple(BlobReference(sha256=f.sha256, size=f.size) for f in files))

    def install(self, signed: bytes) -> None:
        """Begins to install a release whose blobs are all here; the self-test takes a while."""
        threading.Thread(target=self._install, args=(signed,), name="installer", daemon=True).start()

    def watch(self) -> None:
        """Looks for what other programs did to the releases; measures again when enough samples have come."""
        if self._postponed is not None and time.monotonic() >= self._postponed[1]:
            signed, self._postponed = self._postponed[0], None
            self._on_event(ReleaseOffered(signed))
        state = self._store.state()
        if state != self._told:
            self._told = state
            self._on_event(ReleaseChanged())
        tests = count_samples(self._samples, "test")
        grown = tests >= max(self._samples_at_least, self._measured + max(self._measured // 4, 1))
        if state.current is not None and grown and self._busy.acquire(blocking=False):
            self._measured = tests
            threading.Thread(target=self._recheck, name="accuracy", daemon=True).start()

    def report(self) -> dict[str, Scalar]:
        """What serves and where, how well, and what was refused last, for the device's state."""
        state = self._state()
        current = state.current
        failed = [f"{release}: {reason}" for release, reason in state.refused.items()]
        report: dict[str, Scalar] = {
            "release": current.release if current is not None else "",
            "release_refused": self._refused or (failed[-1] if failed else ""),
            "accelerator": current.accelerator if current is not None else "",
        }
        if current is not None and current.cpu_because:
            report["cpu_because"] = current.cpu_because
        if current is not None and current.accuracy is not None:
            report["release_accuracy"] = round(current.accuracy, 4)
        return report

    def _install(self, signed: bytes) -> None:
        try:
            with self._busy:
                _, files = self._store.check(signed)
                sources: dict[str, Path] = {file.name: self._blobs.path(file.sha256) for file in files}
                installed = self._store.install(signed, sources)
            self._refused = ""
            self._told = self._state()
            self._on_event(ReleaseInstalled(signed, installed.release))
        except HedgerowError as error:
            logger.warning("%s", error)
            # What failed here is in the list of what was refused.
            listed = error.args[0] in self._state().refused.values()
            self._refused = "" if listed else str(error.args[0])
            self._on_event(ReleaseRefused(signed, str(error)))
        except OSError as error:
            self._refused = self._postpone(signed, error)
            self._on_event(ReleaseRefused(signed, self._refused))

    def _postpone(self, signed: bytes, error: OSError) -> str:
        """The disk is to blame, not the release; what to say about it."""
        logger.error("the disk did not take a release, it is tried again: %s", error)
        self._postponed = signed, time.monotonic() + RETRY_SECONDS
        return f"the disk failed: {error}"

    def _state(self) -> ReleaseState:
        """What serves, or, from a disk that cannot be read, what served when it could."""
        try:
            return self._store.state()
        except OSError as error:
            logger.error("what serves cannot be read: %s", error)
            return self._told

    def _recheck(self) -> None:
        """The lock was taken by `watch`."""
        try:
            self._store.recheck()
        except (HedgerowError, OSError) as error:
            logger.warning("the accuracy of the release cannot be measured: %s", error)
        finally:
            self._busy.release()
