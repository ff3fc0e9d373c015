"""The broker as a cache: each chunk of a blob is published once, retained, however many devices pull it."""

from __future__ import annotations

from ..protocol.blobs import BlobStore
from ..protocol.link import Link
from ..protocol.messages import BlobReference
from ..protocol.topics import Topics


class Downlink:
    """The blobs that devices may fetch now.

    Args:
        link: To the broker.
        topics: Of the fleet.
        store: Where the blobs' bytes are.
    """

    def __init__(self, link: Link, topics: Topics, store: BlobStore) -> None:
        self._link = link
        self._topics = topics
        self._store = store
        self._offered: dict[str, BlobReference] = {}
        self.bytes_sent = 0

    def offer(self, blob: BlobReference) -> None:
        """Publishes a blob's chunks, unless they are out already."""
        if blob.sha256 not in self._offered:
            self._offered[blob.sha256] = blob
            self._publish(blob, range(blob.chunks))

    def offer_again(self) -> None:
        """Publishes everything once more: a broker that was restarted may have forgotten it."""
        for blob in self._offered.values():
            self._publish(blob, range(blob.chunks))

    def repair(self, sha256: str, chunks: tuple[int, ...]) -> None:
        """Publishes the chunks that a device did not find, if the blob is on offer."""
        blob = self._offered.get(sha256)
        if blob is not None:
            self._publish(blob, [chunk for chunk in chunks if chunk < blob.chunks])

    def withdraw_all_but(self, *kept: BlobReference) -> None:
        """Clears the retained chunks of every other blob."""
        digests = {blob.sha256 for blob in kept}
        for sha256 in [sha256 for sha256 in self._offered if sha256 not in digests]:
            for chunk in range(self._offered.pop(sha256).chunks):
                self._link.publish(self._topics.chunk(sha256, chunk), b"", retain=True)

    def _publish(self, blob: BlobReference, chunks: range | list[int]) -> None:
        for chunk in chunks:
            data = self._store.chunk(blob, chunk)
            self._link.publish(self._topics.chunk(blob.sha256, chunk), data, retain=True)
            self.bytes_sent += len(data)
