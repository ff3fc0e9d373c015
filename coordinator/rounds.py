"""One phase of a round (training, or evaluation) as a state machine without sockets, clocks or files.

    asked ──accepted──▶ working ──update──▶ announced ──grant──▶ uploading ──stored──▶ stored
      └───────────────────┴───failed / refused───┴──────────────────┴──────────────▶ failed

The shell around it journals every stored update before it settles it, so that a coordinator that was killed
goes on in the same phase with the updates it already has. A device that is offline keeps its task: sleeping
is not failing, and only the deadline ends the wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from ..protocol.messages import Update

ASK_AGAIN_SECONDS = 10.0
GRANT_AGAIN_SECONDS = 10.0
WINDOW_CHUNKS = 4


class Status(Enum):
    """Where one device's task stands."""

    ASKED = "asked"
    WORKING = "working"
    ANNOUNCED = "announced"
    UPLOADING = "uploading"
    STORED = "stored"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more is awaited of the device."""
        return self in (Status.STORED, Status.FAILED)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One device's task.

    Args:
        task: The task's id.
        device: Who has it.
        status: How far it is.
        since: When it was last asked for, or granted (seconds on the coordinator's clock).
        update: What the device announced.
        missing: Chunks of the update that are not stored yet.
        granted: Those of them that the device was told to send.
    """

    task: str
    device: str
    status: Status = Status.ASKED
    since: float = float("-inf")
    update: Update | None = None
    missing: tuple[int, ...] = ()
    granted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase in progress.

    Args:
        assignments: By task id.
        deadline: When it closes with whatever it has (seconds on the coordinator's clock).
        target: It closes as soon as so many updates are stored.
        uploads: How many devices may upload at once.
        online: Devices that can hear us.
        closed: Why it closed; empty while it is open.
    """

    assignments: Mapping[str, Assignment]
    deadline: float
    target: int
    uploads: int = 8
    online: frozenset[str] = frozenset()
    closed: str = ""

    @property
    def stored(self) -> tuple[Assignment, ...]:
        """The assignments whose updates count."""
        return tuple(a for a in self.assignments.values() if a.status is Status.STORED)


# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class DeviceOnline:
    """A device was born, or born again: it may have forgotten what it was asked."""

    device: str


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
    """A chunk of the update is on our disk; `missing` ones are not."""

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

# --- actions ------------------------------------------------------------------------------------------------


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
    """The phase is over."""

    reason: str


Action = Ask | GrantChunks | Store | Settle | Withdraw | Close


@dataclass(slots=True)
class _Step:
    """The state and the actions of one step while it is worked out."""

    phase: Phase
    now: float
    actions: list[Action] = field(default_factory=list)

    def put(self, assignment: Assignment) -> None:
        changed = {**self.phase.assignments, assignment.task: assignment}
        self.phase = replace(self.phase, assignments=MappingProxyType(changed))

    def ask(self, assignment: Assignment) -> None:
        if assignment.device in self.phase.online:
            self.put(replace(assignment, since=self.now))
            self.actions.append(Ask(assignment.task))

    def grant(self, assignment: Assignment) -> None:
        chunks = assignment.missing[:WINDOW_CHUNKS]
        self.put(replace(assignment, status=Status.UPLOADING, granted=chunks, since=self.now))
        self.actions.append(GrantChunks(assignment.task, chunks))

    def free_uploads(self) -> int:
        uploading = sum(a.status is Status.UPLOADING for a in self.phase.assignments.values())
        return self.phase.uploads - uploading

    def grant_waiting(self) -> None:
        free = self.free_uploads()
        if free <= 0:
            return
        for assignment in tuple(self.phase.assignments.values()):
            if free and assignment.status is Status.ANNOUNCED and assignment.device in self.phase.online:
                self.grant(assignment)
                free -= 1

    def close(self, reason: str) -> None:
        for assignment in self.phase.assignments.values():
            if not assignment.status.ended:
                self.actions.append(Withdraw(assignment.task))
        self.phase = replace(self.phase, closed=reason)
        self.actions.append(Close(reason))

    def close_if_done(self) -> None:
        statuses = [a.status for a in self.phase.assignments.values()]
        if statuses.count(Status.STORED) >= self.phase.target:
            self.close("target")
        elif all(status.ended for status in statuses):
            self.close("all ended")
        elif self.now >= self.phase.deadline:
            self.close("deadline")


def step(phase: Phase, event: Event, now: float) -> tuple[Phase, tuple[Action, ...]]:
    """What follows from `event` at time `now`.

    Args:
        phase: The state before.
        event: What happened.
        now: Seconds on the coordinator's monotonic clock.

    Returns:
        The state after, and what to do, in order.
    """
    work = _Step(phase, now)
    match event:
        case DeviceOnline(device):
            work.phase = replace(phase, online=phase.online | {device})
            _ask_again(work, device)
        case DeviceOffline(device):
            work.phase = replace(phase, online=phase.online - {device})
            _pause_uploads(work, device)
        case UpdateAnnounced(update, missing):
            _announced(work, update, missing)
        case TaskAccepted(task) | ChunkStored(task) | UpdateStored(task) | TaskFailed(task):
            assignment = phase.assignments.get(task)
            if assignment is not None and not assignment.status.ended and not phase.closed:
                _advance(work, assignment, event)
        case Tick():
            if not phase.closed and now < phase.deadline:
                _repeat(work)
    if not work.phase.closed:
        work.grant_waiting()
        work.close_if_done()
    return work.phase, tuple(work.actions)


def _advance(work: _Step, assignment: Assignment, event: Event) -> None:
    match event:
        case TaskAccepted() if assignment.status is Status.ASKED:
            work.put(replace(assignment, status=Status.WORKING))
        case ChunkStored(missing=missing):
            left = tuple(chunk for chunk in assignment.granted if chunk in missing)
            uploading = replace(assignment, missing=missing, granted=left, since=work.now)
            work.put(uploading)
            if not missing:
                work.actions.append(Store(assignment.task))
            elif not left and assignment.status is Status.UPLOADING:
                work.grant(uploading)
        case UpdateStored():
            work.put(replace(assignment, status=Status.STORED))
            work.actions.append(Settle(assignment.device, assignment.task, accepted=True))
        case TaskFailed(reason=reason, by_device=by_device):
            work.put(replace(assignment, status=Status.FAILED))
            if not by_device:
                work.actions.append(Settle(assignment.device, assignment.task, accepted=False, reason=reason))


def _announced(work: _Step, update: Update, missing: tuple[int, ...]) -> None:
    assignment = work.phase.assignments.get(update.task)
    if assignment is None or assignment.device != update.device:
        work.actions.append(
            Settle(
                update.device,
                update.task,
                accepted=False,
                reason="This task is not one of the current round.",
            )
        )
    elif assignment.status is Status.STORED:
        work.actions.append(Settle(update.device, update.task, accepted=True))
    elif assignment.status is Status.FAILED or work.phase.closed:
        reason = "Its round has closed." if work.phase.closed else "It was refused before."
        work.actions.append(Settle(update.device, update.task, accepted=False, reason=reason))
    elif not missing:
        work.put(replace(assignment, update=update, missing=()))
        work.actions.append(Store(update.task))
    elif assignment.status is not Status.UPLOADING:
        work.put(replace(assignment, status=Status.ANNOUNCED, update=update, missing=missing))


def _ask_again(work: _Step, device: str) -> None:
    for assignment in tuple(work.phase.assignments.values()):
        if assignment.device == device and not work.phase.closed:
            if assignment.status in (Status.ASKED, Status.WORKING):
                work.ask(assignment)
            elif assignment.status is Status.UPLOADING:
                work.grant(assignment)


def _pause_uploads(work: _Step, device: str) -> None:
    for assignment in tuple(work.phase.assignments.values()):
        if assignment.device == device and assignment.status is Status.UPLOADING:
            work.put(replace(assignment, status=Status.ANNOUNCED, granted=()))


def _repeat(work: _Step) -> None:
    for assignment in tuple(work.phase.assignments.values()):
        waited = work.now - assignment.since
        if assignment.status is Status.ASKED and waited >= ASK_AGAIN_SECONDS:
            work.ask(assignment)
        elif assignment.status is Status.UPLOADING and waited >= GRANT_AGAIN_SECONDS:
            work.grant(assignment)
