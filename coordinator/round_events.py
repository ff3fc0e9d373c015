"""What happens to a phase of a round, and what it wants done: data only."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.messages import Update


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class DeviceOnline:
    """A device was born, or born again, or has met a new epoch: it may have forgotten what it was asked.

    Args:
        device: Who.
        tasks: What it says it has at hand; None when it did not say.
    """

    device: str
    tasks: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class DeviceOffline:
    """A device's will or farewell came."""

    device: str


@dataclass(frozen=True, slots=True)
class TaskAccepted:
    """The device has the task."""

    task: str


@dataclass(frozen=True, slots=True)
class UpdateAnnounced:
    """The device has finished; `missing` chunks of its weights are not stored here yet."""

    update: Update
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChunkStored:
    """A chunk of the update is here; `missing` ones are not."""

    task: str
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UpdateStored:
    """The whole update is on our disk, was checked, and is journaled."""

    task: str


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The device cannot do it, or what it sent was refused."""

    task: str
    reason: str
    by_device: bool


Event = (
    Tick
    | DeviceOnline
    | DeviceOffline
    | TaskAccepted
    | UpdateAnnounced
    | ChunkStored
    | UpdateStored
    | TaskFailed
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the task to its device."""

    task: str


@dataclass(frozen=True, slots=True)
class GrantChunks:
    """Let the device send these chunks."""

    task: str
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """Check the complete update, journal it, fold it in; then say `UpdateStored` or `TaskFailed`."""

    task: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell the device that its update is stored, or refused for good."""

    device: str
    task: str
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the device that its task is no longer wanted."""

    task: str


@dataclass(frozen=True, slots=True)
class Close:
    """The phase is over. Comes before the withdrawals, so that it is journaled before any device is told."""

    reason: str


Action = Ask | GrantChunks | Store | Settle | Withdraw | Close
