"""What a device's account may do on a broker that it should not: for `hedgerow doctor`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from .link import Broker
from .peer import Finding, Peer
from .topics import Topics

ANSWER_SECONDS = 1.0
SETTLING_SECONDS = 0.2
STRANGER = "doctor-stranger"
NO_BLOB = "0" * 64


@dataclass(frozen=True, slots=True)
class _Right:
    """Whether one account hears what the other says on a topic."""

    name: str
    speaker: Peer
    hearer: Peer
    topic: str
    payload: bytes = b"doctor"


class AccessProbe:
    """Tries what a device needs, and what would let it harm others, beside the coordinator's own account.

    Nothing is retained. What is published below `all/` has a name of its own, which no device and no
    coordinator listens to, except where the right to the coordinator's own topic is the question: there an
    empty message, which everybody drops.

    Args:
        broker: With the coordinator's account.
        as_device: With the device's.
        fleet: The fleet that the access rules are for.
        device: The device's id, which is its client id.
    """

    def __init__(self, broker: Broker, *, as_device: Broker, fleet: str, device: str) -> None:
        self._broker = broker
        self._as_device = as_device
        self._topics = Topics(fleet)
        self._device = device

    def findings(self) -> Iterator[Finding]:
        """Each right, one by one."""
        with Peer(self._broker, f"{STRANGER}-c") as boss, Peer(self._as_device, self._device) as device:
            needed, holes = self._needed(boss, device), self._holes(boss, device)
            rights = (*needed, *holes)
            for right in rights:
                right.hearer.link.subscribe([right.topic])
            time.sleep(SETTLING_SECONDS)
            for right in rights:
                right.speaker.link.publish(right.topic, right.payload)
            heard = {id(peer): peer.hears(ANSWER_SECONDS) for peer in (device, boss)}
        for right in needed:
            came = (right.topic, right.payload) in heard[id(right.hearer)]
            advice = "" if came else f"Rounds need it: let the account use {right.topic}."
            yield Finding(right.name, "good" if came else "bad", "yes" if came else "no", advice)
        for right in holes:
            came = (right.topic, right.payload) in heard[id(right.hearer)]
            advice = f"A hole in the access rules: deny {right.topic} to {self._device}." if came else ""
            yield Finding(right.name, "bad" if came else "good", "yes" if came else "no", advice)

    def _needed(self, boss: Peer, device: Peer) -> tuple[_Right, ...]:
        topics, name = self._topics, self._device
        return (
            _Right("a device hears its commands", boss, device, topics.down(name, "doctor")),
            _Right("a device reads models", boss, device, topics.chunk(NO_BLOB, 0)),
            _Right("a device answers", device, boss, topics.up(name, "doctor")),
        )

    def _holes(self, boss: Peer, device: Peer) -> tuple[_Right, ...]:
        topics = self._topics
        return (
            _Right("a device reads others' commands", boss, device, topics.down(STRANGER, "doctor")),
            _Right("a device speaks for others", device, boss, topics.up(STRANGER, "doctor"), b"device"),
            _Right("a device gives birth to others", device, boss, topics.state(STRANGER), b"device"),
            _Right("a device commands others", device, boss, topics.down(STRANGER, "doctor"), b"device"),
            _Right("a device changes models", device, boss, topics.chunk(NO_BLOB, 0), b"device"),
            _Right("a device speaks for the coordinator", device, boss, topics.coordinator, b""),
        )
