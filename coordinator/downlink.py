"""The broker as a cache: each chunk of a blob is published once, retained, however many devices pull it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from ..protocol.blobs import BlobStore
from ..protocol.link import Link
from ..protocol.messages import BlobReference
from ..protocol.topics import Topics
from .journal import Journal

IN_FLIGHT = 16
REPAIR_AGAIN_SECONDS = 2.0


class PacedLink(Link, Protocol):
    """A link that says how much of what was published is still on its way."""

    @property
    def unacknowledged(self) -> int:
        """Messages published that the broker has not acknowledged yet."""


class Downlink:
    """The blobs that devices may fetch now.

    Chunks wait here and not in the link, a few at a time: a command to a device then never queues behind a
    model, and nothing piles up while there is no connection.

    Args:
        link: To the broker.
        topics: Of the fleet.
        store: Where the blobs' bytes are.
        journal: Knows what is on the broker, also from before a crash.
    """

    def __init__(self, link: PacedLink, topics: Topics, store: BlobStore, journal: Journal) -> None:
        self._link = link
        self._topics = topics
        self._store = store
        self._journal = journal
        self._offered: dict[str, BlobReference] = {}
        self._forgotten = {blob.sha256: blob for blob in journal.offers()}
        self._journaled = set(self._forgotten)
        self._clearing: deque[tuple[str, int | None]] = deque()
        self._waiting: deque[tuple[BlobReference, int]] = deque()
        self._queued: set[tuple[str, int]] = set()
        self._sent_at: dict[tuple[str, int], float] = {}
        self.bytes_sent = 0

    def offer(self, blob: BlobReference) -> None:
        """Puts a blob's chunks out, unless they are out already."""
        if blob.sha256 not in self._offered:
            if blob.sha256 not in self._journaled:
                self._journal.put_offer(blob)
                self._journaled.add(blob.sha256)
            self._forgotten.pop(blob.sha256, None)
            self._offered[blob.sha256] = blob
            self._clearing = deque(item for item in self._clearing if item[0] != blob.sha256)
            self._put(blob, range(blob.chunks))

    def offer_again(self) -> None:
        """Puts everything out once more: a broker that was restarted may have forgotten it."""
        for blob in self._offered.values():
            self._put(blob, range(blob.chunks))

    def repair(self, sha256: str, chunks: tuple[int, ...]) -> None:
        """Puts out the chunks that a device did not find, if the blob is on offer; each not too often."""
        blob = self._offered.get(sha256)
        if blob is not None:
            now = time.monotonic()
            self._put(
                blob,
                (
                    chunk
                    for chunk in chunks
                    if chunk < blob.chunks
                    and now - self._sent_at.get((sha256, chunk), float("-inf")) >= REPAIR_AGAIN_SECONDS
                ),
            )

    def withdraw_all_but(self, *kept: BlobReference) -> None:
        """Clears the retained chunks of every other blob, also of those from before a restart."""
        digests = {blob.sha256 for blob in kept}
        for blobs in (self._offered, self._forgotten):
            for sha256 in [sha256 for sha256 in blobs if sha256 not in digests]:
                blob = blobs.pop(sha256)
                self._clearing += [(sha256, chunk) for chunk in range(blob.chunks)]
                self._clearing.append((sha256, None))
        self._waiting = deque(item for item in self._waiting if item[0].sha256 in digests)
        self._queued = {item for item in self._queued if item[0] in digests}
        self._sent_at = {key: at for key, at in self._sent_at.items() if key[0] in digests}

    @property
    def idle(self) -> bool:
        """Whether nothing waits to go out."""
        return not self._waiting and not self._clearing

    def pump(self) -> None:
        """Publishes what waits, as far as the broker has acknowledged what went before."""
        while not self.idle and self._link.unacknowledged < IN_FLIGHT:
            if self._waiting:
                self._publish(*self._waiting.popleft())
                continue
            sha256, chunk = self._clearing[0]
            if chunk is not None:
                self._link.publish(self._topics.chunk(sha256, chunk), b"", retain=True)
            elif self._link.unacknowledged:
                return
            else:
                self._journal.drop_offer(sha256)
                self._journaled.discard(sha256)
            self._clearing.popleft()

    def _put(self, blob: BlobReference, chunks: Iterable[int]) -> None:
        for chunk in chunks:
            if (blob.sha256, chunk) not in self._queued:
                self._queued.add((blob.sha256, chunk))
                self._waiting.append((blob, chunk))

    def _publish(self, blob: BlobReference, chunk: int) -> None:
        self._queued.discard((blob.sha256, chunk))
        data = self._store.chunk(blob, chunk)
        self._link.publish(self._topics.chunk(blob.sha256, chunk), data, retain=True)
        self._sent_at[(blob.sha256, chunk)] = time.monotonic()
        self.bytes_sent += len(data)
