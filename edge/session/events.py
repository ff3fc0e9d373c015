"""What happens to a session, and what it wants done: data only, between the pure core and the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...protocol.messages import (
    BlobReference,
    ChunkHeader,
    CoordinatorState,
    DeviceState,
    DownMessage,
    Task,
    UpMessage,
)
from ..result import Result


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has come to `now`, seconds on a monotonic clock. Every other event happens at the last tick."""

    now: float


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The broker accepted the connection; it knows nothing of earlier subscriptions."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection is gone."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The coordinator said something."""

    message: CoordinatorState | DownMessage


@dataclass(frozen=True, slots=True)
class OwnStateHeard:
    """The broker sent the state on this device's own topic: ours, our predecessor's, or a twin's."""

    state: DeviceState


@dataclass(frozen=True, slots=True)
class ChunkCame:
    """The broker sent a chunk of some blob."""

    sha256: str
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LookedUp:
    """Answers `LookUp`: the chunks of a blob that the disk lacks."""

    sha256: str
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChunkKept:
    """Answers `KeepChunk`: the chunk is on disk."""

    sha256: str
    number: int


@dataclass(frozen=True, slots=True)
class BlobSpoiled:
    """The bytes of a blob are not those its name says; what was on disk of it is gone."""

    sha256: str


@dataclass(frozen=True, slots=True)
class WorkProgressed:
    """The worker has done `fraction` of a step of the task."""

    task: str
    step: Literal["train", "evaluate"]
    fraction: float


@dataclass(frozen=True, slots=True)
class WorkFinished:
    """The worker is done; its weights, if any, are a durable blob."""

    result: Result


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """The worker cannot do the task."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Spooled:
    """Answers `Spool`: the result survives a power loss from now on."""

    result: Result


@dataclass(frozen=True, slots=True)
class SpoolBroken:
    """A result cannot be kept, or cannot be read any more."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Probed:
    """Answers `Probe`: what the device waits for before it may work; nothing when it may."""

    waits_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReleaseOffered:
    """The device's channel names a release."""

    signed: bytes


@dataclass(frozen=True, slots=True)
class ReleaseJudged:
    """Answers `JudgeRelease`: it may run here, and these blobs are its files."""

    signed: bytes
    blobs: tuple[BlobReference, ...]


@dataclass(frozen=True, slots=True)
class ReleaseInstalled:
    """Answers `InstallRelease`: it serves."""

    signed: bytes
    release: str


@dataclass(frozen=True, slots=True)
class ReleaseRefused:
    """Answers `JudgeRelease` or `InstallRelease`: the one before goes on serving."""

    signed: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseChanged:
    """Another release serves, or it does so differently, and nobody asked us."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The agent is to end in good order."""


Event = (
    Tick
    | LinkUp
    | LinkDown
    | Heard
    | OwnStateHeard
    | ChunkCame
    | LookedUp
    | ChunkKept
    | BlobSpoiled
    | WorkProgressed
    | WorkFinished
    | WorkFailed
    | Spooled
    | SpoolBroken
    | Probed
    | ReleaseOffered
    | ReleaseJudged
    | ReleaseInstalled
    | ReleaseRefused
    | ReleaseChanged
    | StopAsked
)


@dataclass(frozen=True, slots=True)
class Publish:
    """Say this on the topic of its kind."""

    message: UpMessage


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish the retained DeviceState; what the machine is, the daemon adds.

    Args:
        online: False when the agent ends.
        counter: Of this message.
        epoch: The coordinator's, as last seen.
        tasks: Unfinished and unsettled tasks.
        twin: What is known of another agent with this device's id; empty: nothing.
    """

    online: bool
    counter: int
    epoch: int
    tasks: tuple[str, ...]
    twin: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for these topics."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Ask the broker for these topics no more."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LookUp:
    """Say which chunks of the blob are missing: `LookedUp`."""

    blob: BlobReference


@dataclass(frozen=True, slots=True)
class KeepChunk:
    """Write a chunk to disk: `ChunkKept` or `BlobSpoiled`."""

    blob: BlobReference
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove every downloaded blob but these."""

    keep: frozenset[str]


@dataclass(frozen=True, slots=True)
class Probe:
    """Look whether the device may work: `Probed`."""


@dataclass(frozen=True, slots=True)
class JudgeRelease:
    """Say whether the release may run here: `ReleaseJudged` or `ReleaseRefused`."""

    signed: bytes


@dataclass(frozen=True, slots=True)
class InstallRelease:
    """Test a release whose blobs are here and let it serve: `ReleaseInstalled` or `ReleaseRefused`."""

    signed: bytes


@dataclass(frozen=True, slots=True)
class Work:
    """Begin the task; both its blobs are here."""

    task: Task


@dataclass(frozen=True, slots=True)
class StopWork:
    """Give the task up, within a second."""

    task: str


@dataclass(frozen=True, slots=True)
class Spool:
    """Write the result to disk: `Spooled` or `SpoolBroken`."""

    result: Result


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Read a chunk of a spooled blob and publish it, or `SpoolBroken`."""

    header: ChunkHeader
    blob: BlobReference


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove a task's result from the disk and remember durably that the task is over."""

    task: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove the weights of a result that nobody wants any more."""

    weights: BlobReference


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    text: str


Action = (
    Publish
    | Announce
    | Subscribe
    | Unsubscribe
    | LookUp
    | KeepChunk
    | Prune
    | Probe
    | JudgeRelease
    | InstallRelease
    | Work
    | StopWork
    | Spool
    | SendChunk
    | Forget
    | Discard
    | Note
)
