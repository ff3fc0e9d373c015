"""One phase of a round (training, or evaluation) as a state machine without sockets, clocks or files.

    asked ──accepted──▶ working ──update──▶ announced ──grant──▶ uploading ──complete──▶ checking ──▶ stored
      └───────────────────┴───────────────────────┴──────failed─────┴─────────refused───────┴─────▶ failed

The shell around it journals every stored update before it settles it, so that a coordinator that was killed
goes on in the same phase with the updates it already has. A device that is offline keeps its task: sleeping
is not failing, and only a deadline ends the wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from ..protocol.messages import Update
from .policy import Standing, StragglerPolicy
from .round_events import (
    Action,
    Ask,
    ChunkStored,
    Close,
    DeviceOffline,
    DeviceOnline,
    Event,
    GrantChunks,
    Settle,
    Store,
    TaskAccepted,
    TaskFailed,
    Tick,
    UpdateAnnounced,
    UpdateStored,
    Withdraw,
)

ASK_AGAIN_SECONDS = 10.0
GRANT_AGAIN_SECONDS = (10.0, 160.0)
WINDOW_CHUNKS = 4


class Status(Enum):
    """Where one device's task stands."""

    ASKED = "asked"
    WORKING = "working"
    ANNOUNCED = "announced"
    UPLOADING = "uploading"
    CHECKING = "checking"
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
        seconds: The device's own deadline, from the opening of the phase.
        age: Rounds since it was given out.
        status: How far it is.
        since: When it was last asked for, or granted (seconds on the coordinator's clock).
        patience: Seconds without a chunk before its chunks are granted again; doubles, so that a slow
            connection is not filled with repetitions.
        update: What the device announced.
        missing: Chunks of the update that are not stored yet.
        granted: Those of them that the device was told to send.
    """

    task: str
    device: str
    seconds: float = float("inf")
    age: int = 0
    status: Status = Status.ASKED
    since: float = float("-inf")
    patience: float = GRANT_AGAIN_SECONDS[0]
    update: Update | None = None
    missing: tuple[int, ...] = ()
    granted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase in progress.

    Args:
        assignments: By task id, never changed in place.
        tasks: Task ids by device.
        policy: When it closes.
        opened: When it was opened (seconds on the coordinator's clock).
        uploads: How many devices may upload at once.
        online: Devices that can hear us.
        waiting: Announced tasks in order of their turn to upload.
        tally: How many assignments have each status.
        closed: Why it closed; empty while it is open.
    """

    assignments: Mapping[str, Assignment]
    tasks: Mapping[str, str]
    policy: StragglerPolicy
    opened: float
    uploads: int = 8
    online: frozenset[str] = frozenset()
    waiting: tuple[str, ...] = ()
    tally: Mapping[Status, int] = field(default_factory=dict)
    closed: str = ""

    @classmethod
    def of(
        cls, assignments: list[Assignment], *, policy: StragglerPolicy, now: float, uploads: int = 8
    ) -> Phase:
        """A phase with these assignments, opened now."""
        tally = {status: sum(a.status is status for a in assignments) for status in Status}
        return cls(
            assignments={a.task: a for a in assignments},
            tasks={a.device: a.task for a in assignments},
            policy=policy,
            opened=now,
            uploads=uploads,
            tally=tally,
        )

    @property
    def stored(self) -> tuple[Assignment, ...]:
        """The assignments whose updates count."""
        return tuple(a for a in self.assignments.values() if a.status is Status.STORED)


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
        case DeviceOnline(device, tasks):
            work.phase = replace(phase, online=phase.online | {device})
            _hear_birth(work, device, tasks)
        case DeviceOffline(device):
            work.phase = replace(phase, online=phase.online - {device})
            _pause_upload(work, device)
        case UpdateAnnounced(update, missing):
            _announced(work, update, missing)
        case TaskAccepted(task) | ChunkStored(task) | UpdateStored(task) | TaskFailed(task):
            assignment = phase.assignments.get(task)
            if assignment is not None and not assignment.status.ended and not phase.closed:
                _advance(work, assignment, event)
        case Tick():
            work.close_if_done()
            if not work.phase.closed:
                _pass_time(work)
    if not work.phase.closed:
        work.grant_waiting()
        work.close_if_done()
    return work.finish(), tuple(work.actions)


class _Step:
    """The state and the actions of one step while it is worked out; the assignments are copied once."""

    def __init__(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self.now = now
        self.actions: list[Action] = []
        self._changed: dict[str, Assignment] | None = None
        self._tally = dict(phase.tally)
        self._waiting = list(phase.waiting)

    def assignment(self, task: str) -> Assignment | None:
        return (self.phase.assignments if self._changed is None else self._changed).get(task)

    def assignments(self) -> tuple[Assignment, ...]:
        return tuple((self.phase.assignments if self._changed is None else self._changed).values())

    def put(self, assignment: Assignment) -> None:
        if self._changed is None:
            self._changed = dict(self.phase.assignments)
        before = self._changed[assignment.task].status
        self._changed[assignment.task] = assignment
        self._tally[before] -= 1
        self._tally[assignment.status] += 1
        if assignment.status is Status.ANNOUNCED and before is not Status.ANNOUNCED:
            self._waiting.append(assignment.task)
        elif before is Status.ANNOUNCED and assignment.status is not Status.ANNOUNCED:
            self._waiting.remove(assignment.task)

    def finish(self) -> Phase:
        if self._changed is None:
            return self.phase
        return replace(self.phase, assignments=self._changed, tally=self._tally, waiting=tuple(self._waiting))

    def ask(self, assignment: Assignment) -> None:
        if assignment.device in self.phase.online:
            self.put(replace(assignment, since=self.now))
            self.actions.append(Ask(assignment.task))

    def grant(self, assignment: Assignment) -> None:
        chunks = assignment.missing[:WINDOW_CHUNKS]
        self.put(replace(assignment, status=Status.UPLOADING, granted=chunks, since=self.now))
        self.actions.append(GrantChunks(assignment.task, chunks))

    @property
    def anyone_waits(self) -> bool:
        return bool(self._waiting)

    def grant_waiting(self) -> None:
        free = self.phase.uploads - self._tally[Status.UPLOADING]
        for task in tuple(self._waiting) if free > 0 else ():
            assignment = self.assignment(task)
            if free > 0 and assignment is not None and assignment.device in self.phase.online:
                self.grant(assignment)
                free -= 1

    def close_if_done(self) -> None:
        if self.phase.closed or self._tally[Status.CHECKING]:
            # What is here complete has come in time.
            return
        standing = Standing(
            asked=len(self.phase.assignments),
            stored=self._tally[Status.STORED],
            failed=self._tally[Status.FAILED],
            seconds=self.now - self.phase.opened,
        )
        reason = self.phase.policy.closes(standing)
        if not reason:
            return
        self.actions.append(Close(reason))
        self.phase = replace(self.phase, closed=reason)
        late = self.phase.policy.late
        self.actions += [
            Withdraw(a.task) for a in self.assignments() if not a.status.ended and late(a.age + 1)
        ]


def _advance(work: _Step, assignment: Assignment, event: Event) -> None:
    match event:
        case TaskAccepted() if assignment.status is Status.ASKED:
            work.put(replace(assignment, status=Status.WORKING))
        case ChunkStored(missing=missing) if assignment.status is Status.UPLOADING:
            left = tuple(chunk for chunk in assignment.granted if chunk in missing)
            uploading = replace(
                assignment, missing=missing, granted=left, since=work.now, patience=GRANT_AGAIN_SECONDS[0]
            )
            if not missing:
                _complete(work, uploading)
            elif not left or len(missing) > len(assignment.missing):
                # The window is through, or the whole was spoilt and all of it is wanted again.
                work.grant(uploading)
            else:
                work.put(uploading)
        case UpdateStored() if assignment.status is Status.CHECKING:
            work.put(replace(assignment, status=Status.STORED))
            work.actions.append(Settle(assignment.device, assignment.task, accepted=True))
        case TaskFailed(reason=reason, by_device=by_device):
            work.put(replace(assignment, status=Status.FAILED))
            if not by_device:
                work.actions.append(Settle(assignment.device, assignment.task, accepted=False, reason=reason))


def _announced(work: _Step, update: Update, missing: tuple[int, ...]) -> None:
    assignment = work.assignment(update.task)
    if assignment is None or assignment.device != update.device:
        _refuse(work, update, "This task is not one of the current round.")
    elif assignment.status is Status.STORED:
        work.actions.append(Settle(update.device, update.task, accepted=True))
    elif work.phase.closed:
        if reason := work.phase.policy.late(assignment.age + 1):
            _refuse(work, update, reason)
    elif assignment.status is Status.FAILED:
        _refuse(work, update, "It was given up or refused before.")
    elif assignment.status is Status.CHECKING:
        return
    elif not missing:
        _complete(work, replace(assignment, update=update))
    elif assignment.update is None or assignment.update.weights != update.weights:
        # Announced for the first time, or trained again since.
        work.put(replace(assignment, status=Status.ANNOUNCED, update=update, missing=missing, granted=()))


def _complete(work: _Step, assignment: Assignment) -> None:
    work.put(replace(assignment, status=Status.CHECKING, missing=(), granted=()))
    work.actions.append(Store(assignment.task))


def _refuse(work: _Step, update: Update, reason: str) -> None:
    work.actions.append(Settle(update.device, update.task, accepted=False, reason=reason))


def _hear_birth(work: _Step, device: str, tasks: frozenset[str] | None) -> None:
    assignment = work.assignment(work.phase.tasks.get(device, ""))
    if assignment is None or work.phase.closed:
        return
    if assignment.status in (Status.ANNOUNCED, Status.UPLOADING):
        if tasks is not None and assignment.task not in tasks:
            # Its disk is new: what it announced is gone.
            lost = replace(assignment, status=Status.ASKED, update=None, missing=(), granted=())
            work.put(lost)
            work.ask(lost)
        elif assignment.status is Status.UPLOADING:
            work.grant(assignment)
    elif assignment.status in (Status.ASKED, Status.WORKING):
        # What was accepted before counts for nothing: the question may get lost, and is then put again.
        work.ask(replace(assignment, status=Status.ASKED))


def _pause_upload(work: _Step, device: str) -> None:
    assignment = work.assignment(work.phase.tasks.get(device, ""))
    if assignment is not None and assignment.status is Status.UPLOADING:
        work.put(replace(assignment, status=Status.ANNOUNCED, granted=()))


def _pass_time(work: _Step) -> None:
    for assignment in work.assignments():
        waited = work.now - assignment.since
        if assignment.status in (Status.ASKED, Status.WORKING):
            if work.now - work.phase.opened >= assignment.seconds:
                work.put(replace(assignment, status=Status.FAILED))
                work.actions.append(Withdraw(assignment.task))
            elif assignment.status is Status.ASKED and waited >= ASK_AGAIN_SECONDS:
                work.ask(assignment)
        elif assignment.status is Status.UPLOADING and waited >= assignment.patience:
            _be_impatient(work, assignment)


def _be_impatient(work: _Step, assignment: Assignment) -> None:
    """Nothing came for too long: another device has a try, or this one is granted its chunks again."""
    slower = replace(assignment, patience=min(2 * assignment.patience, GRANT_AGAIN_SECONDS[1]))
    if work.anyone_waits:
        work.put(replace(slower, status=Status.ANNOUNCED, granted=()))
    else:
        work.grant(slower)
