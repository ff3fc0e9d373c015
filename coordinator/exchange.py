"""The coordinator's side of the wire: who is there, what came in, what goes out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import CoordinatorConflictError, MessageError
from ..protocol.link import Connected, Disconnected, LinkEvent, Received, Will
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
from .downlink import Downlink, PacedLink
from .inbox import Acknowledged, Inbox, Woken
from .roster import News, Roster

logger = logging.getLogger(__name__)

FromDevice = DeviceState | UpMessage
PUMP_SECONDS = 0.25


class Connect(Protocol):
    """Opens the link to the broker."""

    def __call__(
        self,
        *,
        will: Will,
        on_event: Callable[[LinkEvent], None],
        on_acknowledged: Callable[[], None],
    ) -> PacedLink:
        """See `MqttLink`."""


class Exchange:
    """Messages in and out, on the caller's own thread.

    The network thread only fills the inbox; `next` empties it, keeps the roster, answers what needs no round
    (missing chunks), and returns what a round has to know. Nothing is sent while there is no connection:
    devices announce themselves when it is back, and are then told again.

    Args:
        topics: Of the fleet.
        run: Names this coordinator's journal.
        next_epoch: Counts a connection, durably.
        connect: Makes the link.
        open_downlink: Makes the downlink on that link.
    """

    def __init__(
        self,
        topics: Topics,
        run: str,
        *,
        next_epoch: Callable[[], int],
        connect: Connect,
        open_downlink: Callable[[PacedLink], Downlink],
    ) -> None:
        self.roster = Roster()
        self.connected = False
        self.counts: Counter[str] = Counter()
        self._topics = topics
        self._run = run
        self._next_epoch = next_epoch
        self._announced = False
        self.epoch = next_epoch()
        self._counter = 0
        self._inbox = Inbox()
        will = Will(topics.coordinator, encode(CoordinatorState(online=False, epoch=self.epoch, run=run)))
        self._link = connect(will=will, on_event=self._inbox.put, on_acknowledged=self._inbox.acknowledge)
        self.downlink = open_downlink(self._link)

    @property
    def dropped(self) -> int:
        """Messages for which there was no room."""
        return self._inbox.dropped

    def next(self, timeout_seconds: float) -> FromDevice | None:
        """The next message from a device that is valid and new, or None when none came in time, or `wake`.

        Raises:
            CoordinatorConflictError: Another coordinator has taken over the fleet.
        """
        until = time.monotonic() + timeout_seconds
        while True:
            if self.connected:
                self.downlink.pump()
            event = self._inbox.get(min(max(until - time.monotonic(), 0.0), PUMP_SECONDS))
            message = None
            match event:
                case Connected():
                    self._on_connected()
                case Disconnected(reason):
                    self.connected = False
                    logger.warning("no connection: %s", reason)
                case Received():
                    message = self._on_received(event)
                case Woken():
                    return None
                case Acknowledged():
                    pass
            if message is not None or time.monotonic() >= until:
                return message

    def wake(self) -> None:
        """Makes `next` return; called in any thread."""
        self._inbox.wake()

    def ask(self, device: str, **fields: Any) -> None:
        """Sends a task; `fields` are those of `Task`."""
        self._send(Task, device, **fields)

    def grant(self, device: str, task: str, sha256: str, chunks: tuple[int, ...]) -> None:
        """Lets a device send chunks of its update."""
        self._send(Grant, device, task=task, sha256=sha256, chunks=chunks)

    def settle(self, device: str, task: str, *, accepted: bool, reason: str = "") -> None:
        """Tells a device that it may forget its update."""
        self._send(Settled, device, task=task, accepted=accepted, reason=reason[:2000])

    def cancel(self, device: str, task: str, reason: str) -> None:
        """Tells a device that a task is no longer wanted."""
        self._send(Cancel, device, task=task, reason=reason)

    def close(self) -> None:
        """Says goodbye and disconnects."""
        self._announce(online=False)
        self._link.close()

    def _on_connected(self) -> None:
        if self._announced:
            # Who was born while we were away hears of a new epoch and says so again: brokers need not hand
            # retained messages to a subscription with a wildcard.
            self.epoch = self._next_epoch()
        self.connected = True
        logger.info("connected, epoch %d", self.epoch)
        self._link.subscribe([self._topics.coordinator, self._topics.states, self._topics.uplinks])
        self._announce(online=True)
        self.downlink.offer_again()

    def _announce(self, *, online: bool) -> None:
        self._announced = True
        state = CoordinatorState(online=online, epoch=self.epoch, run=self._run)
        self._link.publish(self._topics.coordinator, encode(state), retain=True)

    def _on_received(self, event: Received) -> FromDevice | None:
        place = self._topics.parse(event.topic)
        if place is None or not event.payload:
            return None
        try:
            message = decode(place, event.payload)
        except MessageError as error:
            self.counts["invalid"] += 1
            logger.warning("dropped a message on %s: %s", event.topic, error.args[0])
            return None
        self.counts["received"] += 1
        return self._news(message)

    def _news(self, message: Message) -> FromDevice | None:
        match message:
            case DeviceState():
                return None if self.roster.observe(message) is News.NOTHING else message
            case CoordinatorState():
                self._hear_coordinator(message)
                return None
            case Task() | Grant() | Settled() | Cancel():
                return None
        if not self.roster.is_news(message.header if isinstance(message, Chunk) else message):
            self.counts["repeated"] += 1
            return None
        if isinstance(message, Missing):
            self.downlink.repair(message.sha256, message.chunks)
            return None
        return message

    def _hear_coordinator(self, state: CoordinatorState) -> None:
        if state.epoch > self.epoch or (state.epoch == self.epoch and state.run != self._run):
            raise CoordinatorConflictError(
                f"Expected to be the only coordinator of the fleet {self._topics.fleet!r}, received word of"
                f" another one in epoch {state.epoch}; ours is {self.epoch}."
            )
        if state.epoch == self.epoch and not state.online and self.connected:
            # The will of a connection that we have long replaced.
            self._announce(online=True)

    def _send(self, kind: type[DownMessage], device: str, **fields: Any) -> None:
        if not self.connected:
            return
        self._counter += 1
        message = kind(device=device, epoch=self.epoch, counter=self._counter, **fields)
        self._link.publish(self._topics.down(device, kind_of(message)), encode(message))
