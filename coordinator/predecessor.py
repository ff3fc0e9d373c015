"""Is the fleet another coordinator's? Asked before we connect under the coordinator's own name."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import time

from ..errors import BrokerError, CoordinatorConflictError, MessageError
from ..protocol.link import Broker, Connected, Disconnected, LinkEvent, MqttLink, Received
from ..protocol.messages import CoordinatorState, decode
from ..protocol.topics import Topics

ANSWER_SECONDS = 5.0
RETAINED_SECONDS = 0.3
logger = logging.getLogger(__name__)


def epoch_on(broker: Broker, topics: Topics, run: str, *, patient: bool) -> int:
    """The epoch of the last coordinator that the broker knows of; 0 if of none.

    Args:
        broker: Where to ask.
        topics: Of the fleet.
        run: Names our journal: our own earlier start is no conflict.
        patient: Whether a broker that is not there is no reason to give up: it may come back.

    Raises:
        BrokerError: The broker is not there or refuses us, and we are not patient.
        CoordinatorConflictError: Another coordinator is online.
    """
    events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
    name = f"hedgerow-check-{random.getrandbits(32):08x}"
    with contextlib.closing(MqttLink(broker, client_id=name, will=None, on_event=events.put)) as link:
        try:
            _connected(broker, events)
        except BrokerError as error:
            if not patient:
                raise
            logger.warning("%s", error.args[0])
            return 0
        link.subscribe([topics.coordinator])
        state = _retained(topics, events)
    if state is None:
        return 0
    if state.online and state.run != run:
        raise CoordinatorConflictError(
            f"Expected no coordinator of the fleet {topics.fleet!r} on {broker},"
            f" received word of one in epoch {state.epoch}."
        )
    return state.epoch


def _connected(broker: Broker, events: queue.SimpleQueue[LinkEvent]) -> None:
    try:
        event = events.get(timeout=ANSWER_SECONDS)
    except queue.Empty as error:
        raise BrokerError(
            f"Expected an MQTT broker at {broker}, received no answer in {ANSWER_SECONDS:g} s."
        ) from error
    if not isinstance(event, Connected):
        reason = event.reason if isinstance(event, Disconnected) else "something else"
        raise BrokerError(f"Expected an MQTT broker that lets us in, received: {reason}.")


def _retained(topics: Topics, events: queue.SimpleQueue[LinkEvent]) -> CoordinatorState | None:
    until = time.monotonic() + RETAINED_SECONDS
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            event = events.get(timeout=left)
            place = topics.parse(event.topic) if isinstance(event, Received) else None
            if isinstance(event, Received) and place is not None and event.payload:
                with contextlib.suppress(MessageError):
                    message = decode(place, event.payload)
                    return message if isinstance(message, CoordinatorState) else None
    return None
