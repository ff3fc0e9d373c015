"""What a coordinator tells whoever watches it: one class an event, one JSON line each with `--json`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .records import RoundRecord


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Tagged by its name in snake case."""


class Started(_Event, frozen=True, kw_only=True, tag="started"):
    """The coordinator is up.

    Args:
        epoch: Counts its starts.
        round: The round it goes on with.
        rounds: How many there are to be.
    """

    epoch: int
    round: int
    rounds: int


class DevicesOnline(_Event, frozen=True, kw_only=True, tag="devices_online"):
    """The number of devices that can hear us has changed while we wait for them."""

    online: int
    wanted: int


class PhaseOpened(_Event, frozen=True, kw_only=True, tag="phase_opened"):
    """Devices were asked to train or evaluate."""

    round: int
    phase: str
    devices: tuple[str, ...]


class DeviceProgress(_Event, frozen=True, kw_only=True, tag="device_progress"):
    """How far one device is."""

    device: str
    step: str
    fraction: float


class UpdateCounted(_Event, frozen=True, kw_only=True, tag="update_counted"):
    """An update is stored and counts."""

    device: str
    round: int
    phase: str
    num_examples: int
    metrics: dict[str, float]


class UpdateRefused(_Event, frozen=True, kw_only=True, tag="update_refused"):
    """A device could not do its task, or what it sent was refused."""

    device: str
    task: str
    reason: str


class RoundEnded(_Event, frozen=True, kw_only=True, tag="round_ended"):
    """A round is over."""

    record: RoundRecord


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a device last said of itself."""

    device: str
    online: bool
    runtime: str
    examples: int
    capabilities: dict[str, bool | int | float | str]


class Finished(_Event, frozen=True, kw_only=True, tag="finished"):
    """All rounds are over.

    Args:
        weights: The final model's file, safetensors.
        devices: What every device last said of itself.
    """

    weights: str
    devices: tuple[DeviceReport, ...]


Event = (
    Started
    | DevicesOnline
    | PhaseOpened
    | DeviceProgress
    | UpdateCounted
    | UpdateRefused
    | RoundEnded
    | Finished
)
Listener = Callable[[Event], None]


def to_line(event: Event) -> bytes:
    """An event as one line of JSON."""
    return msgspec.json.encode(event) + b"\n"


def from_line(line: bytes) -> Event:
    """The event in one line of JSON."""
    event: Event = msgspec.json.decode(line, type=Event)
    return event
