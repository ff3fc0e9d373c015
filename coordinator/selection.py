"""Who is asked: eligible devices, those that the strategy samples, and some more in case others drop out."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..protocol.messages import DeviceState, Scalar


class Eligibility(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device must be to be asked.

    Args:
        examples: It has at least so many training samples.
        battery_percent: If it says how full its battery is (capability "battery_percent"), at least this.
        capabilities: It says exactly this of itself.
    """

    examples: int = 1
    battery_percent: float = 0.0
    capabilities: dict[str, Scalar] = {}

    def admits(self, state: DeviceState) -> bool:
        """Whether a device may be asked."""
        battery = state.capabilities.get("battery_percent", 100.0)
        full_enough = not isinstance(battery, int | float) or battery >= self.battery_percent
        return (
            state.examples >= self.examples
            and full_enough
            and all(state.capabilities.get(name) == value for name, value in self.capabilities.items())
        )


def spares(chosen: Sequence[str], available: Iterable[str], *, factor: float, seed: str) -> tuple[str, ...]:
    """Devices to ask beside the chosen ones, so that the round need not wait for the slowest.

    Args:
        chosen: Those that the strategy sampled.
        available: All that could be asked.
        factor: How many are asked in all, by the number chosen; 1.3 as in Bonawitz et al., "Towards
            Federated Learning at Scale" (2019).
        seed: The same seed chooses the same spares.
    """
    rest = sorted(set(available) - set(chosen))
    wanted = min(math.ceil(len(chosen) * factor) - len(chosen), len(rest))
    return tuple(random.Random(seed).sample(rest, max(wanted, 0)))


def device_seconds(
    device: str, answered: Mapping[str, Sequence[float]], *, factor: float, floor: float, limit: float
) -> float:
    """A device's own deadline, from what it took before.

    Args:
        device: Who.
        answered: Seconds that its last answers took, by device.
        factor: So many times its slowest of these.
        floor: And at least so long.
        limit: The deadline of the round, which ends every other.
    """
    before = answered.get(device, ())
    return limit if not before or factor <= 0 else min(limit, max(floor, factor * max(before)))
