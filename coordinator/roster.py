"""Which devices there are, and what each last said of itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from ..protocol.messages import DeviceState


def node_id(device: str) -> int:
    """The Flower node id of a device: 62 bits of its name's SHA-256, the same in every run.

    Flower keeps small numbers for itself and takes 63 bits; a device's id is its own in any coordinator.
    """
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") >> 2 | 1 << 32


@dataclass(slots=True)
class Roster:
    """The devices of one fleet by name.

    Args:
        states: The newest state of each device.
    """

    states: dict[str, DeviceState] = field(default_factory=dict)

    def observe(self, state: DeviceState) -> bool:
        """Takes in a birth or death; False if it is of an incarnation that is over.

        A will is sent with the incarnation that died: coming after the next birth, it says nothing.
        """
        known = self.states.get(state.device)
        if known is not None and self.is_stale(state.device, state.incarnation):
            return False
        if known is not None and not state.online:
            # A will carries no news but the death itself.
            state = msgspec.structs.replace(known, online=False)
        self.states[state.device] = state
        return True

    def is_stale(self, device: str, incarnation: int) -> bool:
        """Whether the device has been born again since."""
        known = self.states.get(device)
        return known is not None and incarnation < known.incarnation

    def online(self) -> tuple[str, ...]:
        """The devices that can hear us, in order of their names."""
        return tuple(sorted(name for name, state in self.states.items() if state.online))
