"""What the network thread hands over: a queue whose bytes are bounded."""

from __future__ import annotations

import queue
import threading

from ..protocol.link import LinkEvent, Received

BYTES_AT_MOST = 64 << 20


class Acknowledged:
    """The broker has acknowledged something: there may be room for more."""


class Woken:
    """Another thread wants something done."""


InboxEvent = LinkEvent | Acknowledged | Woken


class Inbox:
    """Events of the link in order.

    What does not fit is dropped and counted: everything that matters is said again by the protocol, whereas
    a network thread that waits would lose the connection.

    Args:
        bytes_at_most: Payloads that wait, together.
    """

    def __init__(self, bytes_at_most: int = BYTES_AT_MOST) -> None:
        self._queue: queue.SimpleQueue[InboxEvent] = queue.SimpleQueue()
        self._bytes_at_most = bytes_at_most
        self._bytes = 0
        self._lock = threading.Lock()
        self._acknowledged = False
        self.dropped = 0

    def put(self, event: LinkEvent) -> None:
        """Called in the network thread."""
        if isinstance(event, Received):
            with self._lock:
                if self._bytes + len(event.payload) > self._bytes_at_most:
                    self.dropped += 1
                    return
                self._bytes += len(event.payload)
        self._queue.put(event)

    def acknowledge(self) -> None:
        """Called in the network thread; one wake-up stands for many."""
        if not self._acknowledged:
            self._acknowledged = True
            self._queue.put(Acknowledged())

    def wake(self) -> None:
        """Called in any thread."""
        self._queue.put(Woken())

    def get(self, timeout_seconds: float) -> InboxEvent | None:
        """The next event, or None when none came in time."""
        try:
            event = (
                self._queue.get(timeout=timeout_seconds) if timeout_seconds > 0 else self._queue.get_nowait()
            )
        except queue.Empty:
            return None
        if isinstance(event, Acknowledged):
            self._acknowledged = False
        elif isinstance(event, Received):
            with self._lock:
                self._bytes -= len(event.payload)
        return event
