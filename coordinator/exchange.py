"""The coordinator's side of the wire: who is there, what came in, what goes out."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Any

from ..errors import MessageError
from ..protocol.link import Connected, Disconnected, LinkEvent, MqttLink, Received, Will
from ..protocol.messages import (
    Cancel,
    Chunk,
    CoordinatorState,
    DeviceState,
    DownMessage,
    Grant,
    Message,
    Missing,
    Settled,
    Task,
    UpMessage,
    decode,
    encode,
    kind_of,
)
from ..protocol.topics import Topics
from .downlink import Downlink
from .roster import Roster

logger = logging.getLogger(__name__)

FromDevice = DeviceState | UpMessage


class Exchange:
    """Messages in and out, on the caller's own thread.

    The network thread only fills a queue; `next` empties it, keeps the roster, answers what needs no round
    (missing chunks), and returns what a round has to know.

    Args:
        topics: Of the fleet.
        epoch: Of this start of the coordinator.
        connect: Makes the link, given the will and the queue's `put`.
        open_downlink: Makes the downlink on that link.
    """

    def __init__(
        self,
        topics: Topics,
        epoch: int,
        *,
        connect: Callable[[Will, Callable[[LinkEvent], None]], MqttLink],
        open_downlink: Callable[[MqttLink], Downlink],
    ) -> None:
        self.roster = Roster()
        self.connected = False
        self._topics = topics
        self._epoch = epoch
        self._counter = 0
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        will = Will(topics.coordinator, encode(CoordinatorState(online=False, epoch=epoch)))
        self._link = connect(will, self._events.put)
        self.downlink = open_downlink(self._link)

    def next(self, timeout_seconds: float) -> FromDevice | None:
        """The next message from a device that is valid and current, or None when none came in time."""
        try:
            event = (
                self._events.get(timeout=timeout_seconds)
                if timeout_seconds > 0
                else self._events.get_nowait()
            )
        except queue.Empty:
            return None
        match event:
            case Connected():
                self._on_connected()
            case Disconnected(reason):
                self.connected = False
                logger.warning("no connection: %s", reason)
            case Received():
                return self._on_received(event)
        return None

    def ask(self, device: str, **fields: Any) -> None:
        """Sends a task; `fields` are those of `Task`."""
        stamped: dict[str, Any] = {"device": device, **self._stamp(), **fields}
        self._send(Task(**stamped))

    def grant(self, device: str, task: str, sha256: str, chunks: tuple[int, ...]) -> None:
        """Lets a device send chunks of its update."""
        self._send(Grant(device=device, task=task, sha256=sha256, chunks=chunks, **self._stamp()))

    def settle(self, device: str, task: str, *, accepted: bool, reason: str = "") -> None:
        """Tells a device that it may forget its update."""
        self._send(Settled(device=device, task=task, accepted=accepted, reason=reason, **self._stamp()))

    def cancel(self, device: str, task: str, reason: str) -> None:
        """Tells a device that a task is no longer wanted."""
        self._send(Cancel(device=device, task=task, reason=reason, **self._stamp()))

    def close(self) -> None:
        """Says goodbye and disconnects."""
        self._announce(online=False)
        self._link.close()

    def _on_connected(self) -> None:
        self.connected = True
        logger.info("connected, epoch %d", self._epoch)
        self._link.subscribe([self._topics.states, self._topics.uplinks])
        self._announce(online=True)
        self.downlink.offer_again()

    def _announce(self, *, online: bool) -> None:
        state = CoordinatorState(online=online, epoch=self._epoch)
        self._link.publish(self._topics.coordinator, encode(state), retain=True)

    def _on_received(self, event: Received) -> FromDevice | None:
        place = self._topics.parse(event.topic)
        if place is None or not event.payload:
            return None
        try:
            message = decode(place, event.payload)
        except MessageError as error:
            logger.warning("dropped a message on %s: %s", event.topic, error.args[0])
            return None
        return self._current(message)

    def _current(self, message: Message) -> FromDevice | None:
        match message:
            case DeviceState():
                return message if self.roster.observe(message) else None
            case Missing() if not self._is_stale(message):
                self.downlink.repair(message.sha256, message.chunks)
                return None
            case Chunk(header):
                return None if self._is_stale(header) else message
            case CoordinatorState(epoch=epoch):
                if epoch > self._epoch:
                    logger.error("another coordinator of this fleet is online, in epoch %d", epoch)
                return None
            case Task() | Grant() | Settled() | Cancel():
                return None
        return None if self._is_stale(message) else message

    def _is_stale(self, message: Any) -> bool:
        return self.roster.is_stale(message.device, message.incarnation)

    def _stamp(self) -> dict[str, int]:
        self._counter += 1
        return {"epoch": self._epoch, "counter": self._counter}

    def _send(self, message: DownMessage) -> None:
        self._link.publish(self._topics.down(message.device, kind_of(message)), encode(message))
