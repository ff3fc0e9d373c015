"""The agent's hands for releases: judging at once, installing beside the loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ...errors import HedgerowError
from ...protocol.blobs import BlobStore
from ...protocol.messages import BlobReference, Scalar
from ..config import AgentConfig
from ..session.events import ReleaseInstalled, ReleaseJudged, ReleaseRefused
from .store import ReleaseStore

logger = logging.getLogger(__name__)


class Installer:
    """Judges and installs the releases that a channel offers.

    Args:
        config: The agent's.
        blobs: Where the files of a release are fetched to.
        on_event: Called in the installing thread: hand the event on, do nothing else.
    """

    def __init__(
        self,
        config: AgentConfig,
        blobs: BlobStore,
        on_event: Callable[[ReleaseInstalled | ReleaseRefused], None],
    ) -> None:
        self._store = ReleaseStore.of_device(config)
        self._blobs = blobs
        self._on_event = on_event

    def judge(self, signed: bytes) -> ReleaseJudged | ReleaseRefused:
        """Whether the release may run here, and the blobs that are its files."""
        try:
            _, files = self._store.check(signed)
        except HedgerowError as error:
            return ReleaseRefused(signed, error.args[0])
        return ReleaseJudged(signed, tuple(BlobReference(sha256=f.sha256, size=f.size) for f in files))

    def install(self, signed: bytes) -> None:
        """Begins to install a release whose blobs are all here; the self-test takes a while."""
        threading.Thread(target=self._install, args=(signed,), name="installer", daemon=True).start()

    def report(self) -> dict[str, Scalar]:
        """What serves, and what was refused last, for the device's state."""
        state = self._store.state()
        refused = [f"{release}: {reason}" for release, reason in state.refused.items()]
        return {
            "release": state.current.release if state.current is not None else "",
            "release_refused": refused[-1] if refused else "",
        }

    def _install(self, signed: bytes) -> None:
        try:
            _, files = self._store.check(signed)
            sources: dict[str, Path] = {file.name: self._blobs.path(file.sha256) for file in files}
            self._on_event(ReleaseInstalled(signed, self._store.install(signed, sources).release))
        except (HedgerowError, OSError) as error:
            logger.warning("%s", error)
            self._on_event(ReleaseRefused(signed, str(error)))
