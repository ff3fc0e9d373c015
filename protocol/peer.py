"""A client that tries things on a broker, and what it finds: for `hedgerow doctor`."""

from __future__ import annotations

import contextlib
import queue
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from ..errors import BrokerError
from .link import Broker, Disconnected, LinkEvent, MqttLink, Received, Will

ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Args:
        name: What.
        level: Whether it is as it should be, a limit to know of, or a reason not to use this broker.
        found: What was found.
        advice: What we do about it, or what the operator should.
    """

    name: str
    level: Literal["good", "limit", "bad"]
    found: str
    advice: str = ""


class Peer:
    """A client with its events in a queue; a context manager.

    Args:
        broker: Where to connect.
        name: The client id.
        will: What the broker says when the connection breaks.
        keeps_session: Whether the broker is to keep what comes while we are away.

    Raises:
        BrokerError: The broker is not there, or refuses us.
    """

    def __init__(
        self, broker: Broker, name: str, will: Will | None = None, *, keeps_session: bool = False
    ) -> None:
        self.events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self.link = MqttLink(
            broker, client_id=name, will=will, on_event=self.events.put, clean_session=not keeps_session
        )
        try:
            event = self.events.get(timeout=ANSWER_SECONDS)
        except queue.Empty as error:
            self.link.close(timeout_seconds=0.1)
            raise BrokerError(f"Expected a broker at {broker}, received no answer.") from error
        if isinstance(event, Disconnected):
            self.link.close(timeout_seconds=0.1)
            raise BrokerError(f"Expected a broker that lets us in, received: {event.reason}.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.link.close(timeout_seconds=0.5)

    def hears(self, seconds: float) -> set[tuple[str, bytes]]:
        """Every topic and payload that comes in so long."""
        heard, until = set(), time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self.events.get(timeout=left)
                if isinstance(event, Received):
                    heard.add((event.topic, event.payload))
        return heard

    def receives(self, topic: str, *, size: int | None = None, seconds: float = ANSWER_SECONDS) -> bool:
        """Whether a message on this topic comes in time, with so many bytes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self.events.get(timeout=left)
                if isinstance(event, Received) and event.topic == topic and event.payload:
                    return size is None or len(event.payload) == size
                if isinstance(event, Disconnected):
                    return False
        return False
