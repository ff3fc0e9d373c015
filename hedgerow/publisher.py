"""Puts releases on the broker, retained, and reads them back: an ACL's refusal is invisible in MQTT 3.1.1."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from .errors import BrokerError, MessageError
from .protocol import messages
from .protocol.blobs import BlobStore, reference
from .protocol.link import Broker, Connected, Disconnected, LinkEvent, MqttLink, Received
from .protocol.messages import DeviceState
from .protocol.topics import Topics
from .publication import History, Publication

IN_FLIGHT = 16
SECONDS = 30.0


class Publisher:
    """A connection that publishes. A context manager.

    Args:
        broker: Where to; its account may write below the fleet's `all/`.
        fleet: The fleet.
        seconds: How long the broker may be silent.

    Raises:
        BrokerError: The broker is not there or refuses us.
    """

    def __init__(self, broker: Broker, fleet: str, *, seconds: float = SECONDS) -> None:
        self._broker = broker
        self._topics = Topics(fleet)
        self._seconds = seconds
        self._events: SimpleQueue[LinkEvent] = SimpleQueue()
        self._acknowledged = threading.Event()
        self._link = MqttLink(
            broker,
            client_id=f"{fleet}-release-{random.getrandbits(32):08x}"[-48:],
            will=None,
            on_event=self._events.put,
            on_acknowledged=self._acknowledged.set,
        )
        try:
            self._connect()
        except BaseException:
            self._link.close()
            raise

    def put_out(self, history: History) -> Publication:
        """Publishes what is pending in the history: the files, then the manifest, then clears old files.

        Raises:
            BrokerError: The broker does not acknowledge, or does not hand out what it acknowledged.
        """
        publication = history.pending
        assert publication is not None
        files = publication.manifest.files
        history.will_put(files)
        for digest in dict.fromkeys(file.sha256 for file in files):
            self._put_blob(history.blobs, digest)
        self._settle()
        topic = self._topics.release(publication.channel)
        self._put(topic, publication.signed.encode())
        self._settle()
        self._check({topic: publication.signed.encode()})
        history.has_published()
        self._clear(history.unwanted())
        history.has_cleared(history.unwanted())
        return publication

    def restore(self, history: History) -> tuple[Publication, ...]:
        """Publishes again what every channel offers, for a broker that has lost it."""
        current = tuple(history.current(channel) for channel in history.channels)
        for digest in dict.fromkeys(file.sha256 for one in current for file in one.manifest.files):
            self._put_blob(history.blobs, digest)
        for one in current:
            self._put(self._topics.release(one.channel), one.signed.encode())
        self._settle()
        self._check({self._topics.release(one.channel): one.signed.encode() for one in current})
        return current

    def states(self, seconds: float) -> tuple[DeviceState, ...]:
        """The last word of every device that the broker has one of, after listening for a while."""
        self._link.subscribe([self._topics.states])
        found = {}
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except Empty:
                break
            place = self._topics.parse(event.topic) if isinstance(event, Received) else None
            if isinstance(event, Received) and place is not None and event.payload:
                try:
                    message = messages.decode(place, event.payload)
                except MessageError:
                    continue
                if isinstance(message, DeviceState):
                    found[message.device] = message
        return tuple(found[device] for device in sorted(found))

    def close(self) -> None:
        """Disconnects."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self) -> None:
        try:
            event = self._events.get(timeout=self._seconds)
        except Empty as error:
            raise BrokerError(
                f"Expected an MQTT broker at {self._broker}, received no answer in {self._seconds:g} s."
            ) from error
        if not isinstance(event, Connected):
            reason = event.reason if isinstance(event, Disconnected) else "something else"
            raise BrokerError(f"Expected an MQTT broker that lets us in, received: {reason}.")

    def _put_blob(self, blobs: BlobStore, digest: str) -> None:
        blob = reference(blobs.path(digest).read_bytes())
        for number in range(blob.chunks):
            self._put(self._topics.chunk(digest, number), blobs.chunk(blob, number))

    def _clear(self, sizes: Mapping[str, int]) -> None:
        for digest, size in sizes.items():
            for number in range(-(-size // messages.CHUNK_BYTES)):
                self._put(self._topics.chunk(digest, number), b"")
        self._settle()

    def _put(self, topic: str, payload: bytes) -> None:
        self._wait(IN_FLIGHT)
        self._link.publish(topic, payload, retain=True)

    def _settle(self) -> None:
        self._wait(1)

    def _wait(self, below: int) -> None:
        """Waits until fewer than `below` messages are on their way."""
        while True:
            self._acknowledged.clear()
            if self._link.unacknowledged < below:
                return
            if not self._acknowledged.wait(self._seconds):
                raise BrokerError(
                    f"Expected {self._broker} to acknowledge what was published, received nothing for "
                    f"{self._seconds:g} s.",
                    remedy="Run the same command again: it goes on where it was.",
                )

    def _check(self, expected: Mapping[str, bytes]) -> None:
        self._link.subscribe(list(expected))
        lacking = dict(expected)
        until = time.monotonic() + self._seconds
        while lacking:
            try:
                event = self._events.get(timeout=max(until - time.monotonic(), 0.01))
            except Empty as error:
                raise BrokerError(
                    f"Expected to read {', '.join(sorted(lacking))} back from {self._broker}, "
                    "received nothing.",
                    remedy="Let this account write below the fleet's all/ in the broker's ACL.",
                ) from error
            if isinstance(event, Received) and lacking.get(event.topic) == event.payload:
                del lacking[event.topic]
        self._link.unsubscribe(list(expected))
