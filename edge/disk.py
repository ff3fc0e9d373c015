"""The session's actions that read or write the state folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ..errors import BlobError, SpoolError
from ..protocol.blobs import BlobStore
from ..protocol.messages import BlobReference, Chunk, ChunkHeader
from .sample_count import count_added
from .session import events
from .session.events import Action, Event
from .spool import TRAINED_AT, Spool

logger = logging.getLogger(__name__)


class Disk:
    """Downloaded blobs and the spool. What the disk refuses is logged and told to the session, never raised.

    Args:
        blobs: Programs and weights on their way in.
        spool: Results on their way out.
        samples: The samples folder.
        send: Publishes one chunk of a result.
    """

    def __init__(self, blobs: BlobStore, spool: Spool, samples: Path, send: Callable[[Chunk], None]) -> None:
        self._blobs = blobs
        self._spool = spool
        self._samples = samples
        self._send = send

    def perform(self, action: Action) -> Event | None:
        """Does what `action` says; the event that answers it, if it has an answer."""
        try:
            return self._perform(action)
        except (OSError, SpoolError) as error:
            logger.error("the disk failed in %s: %s", type(action).__name__, error)
            match action:
                case events.Spool(result=result):
                    return events.SpoolBroken(result.task, f"The result could not be kept: {error}")
                case events.SendChunk(header=ChunkHeader(task=task)):
                    return events.SpoolBroken(task, f"The result cannot be read any more: {error}")
            return None

    def spoiled(self, *blobs: BlobReference) -> events.BlobSpoiled | None:
        """The first of these downloaded blobs whose bytes the disk has lost or changed."""
        for blob in blobs:
            try:
                self._blobs.read(blob)
            except (BlobError, OSError) as error:
                logger.warning("%s", error)
                return events.BlobSpoiled(blob.sha256)
        return None

    def _perform(self, action: Action) -> Event | None:
        match action:
            case events.LookUp(blob=blob):
                return events.LookedUp(blob.sha256, self._blobs.missing(blob))
            case events.KeepChunk(blob=blob, number=number, data=data):
                return self._keep(blob, number, data)
            case events.Prune(keep=keep):
                self._blobs.keep(set(keep))
            case events.Spool(result=result):
                self._spool.add(result)
                if result.weights and (added := count_added(self._samples)) is not None:
                    self._spool.mark(TRAINED_AT, added)
                return events.Spooled(result)
            case events.SendChunk(header=header, blob=blob):
                self._send(Chunk(header, self._spool.blobs.chunk(blob, header.chunk)))
            case events.Forget(task=task):
                self._spool.forget(task)
            case events.Discard(weights=weights):
                self._spool.discard(weights)
        return None

    def _keep(self, blob: BlobReference, number: int, data: bytes) -> Event:
        try:
            self._blobs.add_chunk(blob, number, data)
        except BlobError as error:
            logger.warning("%s", error)
            return events.BlobSpoiled(blob.sha256)
        return events.ChunkKept(blob.sha256, number)
