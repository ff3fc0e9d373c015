"""Which devices there are, what each last said of itself, and what of theirs was heard before."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import msgspec

from ..protocol.messages import DeviceState

DEVICES_AT_MOST = 100_000
WINDOW = 1024


def node_id(device: str) -> int:
    """The Flower node id of a device: 62 bits of its name's SHA-256, the same in every run.

    Flower keeps small numbers for itself and takes 63 bits; a device's id is its own in any coordinator.
    """
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") >> 2 | 1 << 32


class Sent(Protocol):
    """What every message of a device says of itself."""

    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def incarnation(self) -> int: ...  # noqa: D102
    @property
    def counter(self) -> int: ...  # noqa: D102


class News(Enum):
    """What a device's state says that was not known."""

    NOTHING = "nothing"
    BIRTH = "birth"
    DEATH = "death"


@dataclass(slots=True)
class ReplayWindow:
    """Which counters were heard, as in IPsec (RFC 4303, section 3.4.3): the highest and a bit for each below.

    Args:
        highest: The highest counter heard.
        bits: Bit n: counter `highest - n` was heard.
    """

    highest: int = -1
    bits: int = 0

    def admit(self, counter: int) -> bool:
        """Whether this counter is heard for the first time; too old ones count as repetitions."""
        ahead = counter - self.highest
        if ahead > 0:
            self.bits = (self.bits << min(ahead, WINDOW) | 1) & (1 << WINDOW) - 1
            self.highest = counter
            return True
        if -ahead >= WINDOW or self.bits >> -ahead & 1:
            return False
        self.bits |= 1 << -ahead
        return True


@dataclass(slots=True)
class Roster:
    """The devices of one fleet by name.

    Args:
        states: The newest state of each device.
    """

    states: dict[str, DeviceState] = field(default_factory=dict)
    _left: dict[str, float] = field(default_factory=dict)
    _windows: dict[str, tuple[int, ReplayWindow]] = field(default_factory=dict)

    def observe(self, state: DeviceState) -> News:
        """Takes in a birth or death; nothing if it is of an incarnation that is over.

        A will is sent with the incarnation that died: coming after the next birth, it says nothing.
        """
        known = self.states.get(state.device)
        if known is None and len(self.states) >= DEVICES_AT_MOST:
            return News.NOTHING
        if known is not None and state.incarnation < known.incarnation:
            return News.NOTHING
        if not state.online:
            # A will carries no news but the death itself.
            if known is not None and known.online:
                self._left[state.device] = time.monotonic()
            self.states[state.device] = (
                state if known is None else msgspec.structs.replace(known, online=False)
            )
            return News.DEATH
        self.states[state.device] = state
        again = known is not None and known.online and known.incarnation == state.incarnation
        return News.NOTHING if again and known is not None and known.epoch == state.epoch else News.BIRTH

    def is_news(self, message: Sent) -> bool:
        """Whether a message is neither of an incarnation that is over nor a repetition.

        MQTT at QoS 1 may deliver a message twice, and late: the same counter again is the same message.
        """
        known = self.states.get(message.device)
        if known is not None and message.incarnation < known.incarnation:
            return False
        incarnation, window = self._windows.get(message.device, (-1, ReplayWindow()))
        if message.incarnation < incarnation:
            return False
        if message.incarnation > incarnation:
            window = ReplayWindow()
            if message.device not in self._windows and len(self._windows) >= DEVICES_AT_MOST:
                return False
            self._windows[message.device] = (message.incarnation, window)
        return window.admit(message.counter)

    def left_at(self, device: str) -> float | None:
        """When a device went offline, seconds on the monotonic clock; None while it is online."""
        known = self.states.get(device)
        return None if known is not None and known.online else self._left.get(device, float("-inf"))

    def online(self) -> tuple[str, ...]:
        """The devices that can hear us, in order of their names."""
        return tuple(sorted(name for name, state in self.states.items() if state.online))

    def available(self, asleep_seconds: float) -> tuple[str, ...]:
        """The devices that are online, or went offline within so long: they are asked when they are back."""
        since = time.monotonic() - asleep_seconds
        return tuple(
            sorted(
                name
                for name, state in self.states.items()
                if state.online or (asleep_seconds and self._left.get(name, float("-inf")) >= since)
            )
        )
