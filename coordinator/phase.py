"""One phase of a round in the world: the state machine of `rounds` between wire, disk and clock."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import msgspec

from ..errors import BlobError, TensorsError, UpdateError
from ..protocol.messages import (
    Accepted,
    BlobReference,
    Chunk,
    ChunkHeader,
    Codec,
    DeviceState,
    Failed,
    FlowerMessage,
    Progress,
    Scalar,
    Update,
)
from ..protocol.tensors import Weights
from . import round_events, rounds
from .admission import Rules
from .events import DeviceProgress, Listener, UpdateCounted, UpdateRefused
from .exchange import Exchange, FromDevice
from .intake import Intake
from .journal import Journal
from .policy import StragglerPolicy
from .records import Outstanding, PhaseRecord
from .rounds import Assignment, Phase, Status

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
BATCH = 32
BATCH_BYTES = 64 << 20
SPOILT_AT_MOST = 3
Fold = Callable[[Update, Weights | None], None]


@dataclass(frozen=True, slots=True)
class Assigned:
    """What one device is asked in this phase.

    Args:
        device: Who.
        config: What the strategy wants it to know.
        seconds: Its own deadline.
        content: Of a message to a Flower app, in place of the program and the model.
        message: What such a message says beside its content.
        earlier: The task as an earlier round gave it out, if one did.
    """

    device: str
    config: dict[str, Scalar]
    seconds: float
    content: BlobReference | None = None
    message: FlowerMessage | None = None
    earlier: Outstanding | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a phase works with.

    Args:
        exchange: The wire.
        journal: Where updates are written before they count.
        intake: Where their bytes are.
        listener: Told what happens.
        stopping: Whether the coordinator is to stop.
    """

    exchange: Exchange
    journal: Journal
    intake: Intake
    listener: Listener
    stopping: Callable[[], bool]


class PhaseRun:
    """Runs one phase to its end.

    Args:
        record: The phase as the journal has it.
        tasks: What every device is asked, by task id.
        program: The trainable file.
        codec: How devices are to write their updates.
        admission: What an update must be.
        policy: When the phase closes.
        uploads: How many devices may upload at once.
        fold: Takes in each update once, with its weights (None for an evaluation).
        around: What it works with.
        later: Tasks that are none of these, whose updates are asked for again in a later phase.
    """

    def __init__(
        self,
        record: PhaseRecord,
        tasks: Mapping[str, Assigned],
        *,
        program: BlobReference,
        codec: Codec,
        admission: Rules,
        policy: StragglerPolicy,
        uploads: int,
        fold: Fold,
        around: Surroundings,
        later: Collection[str] = (),
    ) -> None:
        self.record = record
        self._tasks = tasks
        self._program = program
        self._codec = codec
        self._admission = admission
        self._fold = fold
        self._around = around
        self._later = frozenset(later)
        self._complete: list[str] = []
        # They are checked and journaled together, and meanwhile all of them are in memory.
        self._batch = max(1, min(BATCH, BATCH_BYTES // admission.bytes_held))
        self._spoilt: Counter[str] = Counter()
        self._received_before = around.intake.bytes_received
        self._bytes_recovered = 0
        assignments = self._recovered()
        self._phase = Phase.of(assignments, policy=policy, now=time.monotonic(), uploads=uploads)

    @property
    def bytes_up(self) -> int:
        """Bytes of updates that came in, and of those that had before a restart."""
        return self._bytes_recovered + self._around.intake.bytes_received - self._received_before

    def has(self, task: str) -> bool:
        """Whether a task is one of these."""
        return task in self._tasks

    @property
    def busy(self) -> bool:
        """Whether complete updates wait to be checked."""
        return bool(self._complete)

    @property
    def pending(self) -> tuple[Assignment, ...]:
        """The assignments that have not ended."""
        return tuple(a for a in self._phase.assignments.values() if not a.status.ended)

    def run(self) -> bool:
        """Blocks until the phase is closed; False if the coordinator is to stop before."""
        self.begin()
        ticked = float("-inf")
        while not self.record.closed and not self._around.stopping():
            message = self._around.exchange.next(0.0 if self.busy else TICK_SECONDS)
            if isinstance(message, Update) and message.task not in self._tasks:
                if message.task not in self._later:
                    settle_earlier(self._around, message)
            elif message is not None:
                self.hear(message)
            due = time.monotonic() - ticked >= TICK_SECONDS
            if due:
                ticked = time.monotonic()
            self.work(idle=message is None, due=due)
        return bool(self.record.closed)

    def begin(self) -> None:
        """Asks the devices that are there."""
        if not self.record.closed:
            for device in self._around.exchange.roster.online():
                self._step(round_events.DeviceOnline(device))

    def work(self, *, idle: bool, due: bool) -> None:
        """Counts complete updates and sees to what time brings.

        Args:
            idle: No message waits.
            due: It is time to look at deadlines.
        """
        if self._complete and (idle or due or len(self._complete) >= self._batch):
            self._count()
        if due:
            self._step(round_events.Tick())

    def judge_by(self, policy: StragglerPolicy) -> None:
        """Puts another policy in the place of this one."""
        self._phase = replace(self._phase, policy=policy)

    def give_up(self, task: str, reason: str) -> None:
        """Ends a task that no answer will come to, for good."""
        self._around.journal.put_refusal(self.record.phase, self.record.round, task, reason)
        self._around.listener(UpdateRefused(device=self._tasks[task].device, task=task, reason=reason))
        self._step(round_events.TaskFailed(task, reason, by_device=True))

    def _recovered(self) -> list[Assignment]:
        """The assignments, with what was counted and refused before the coordinator was stopped."""
        journal, place = self._around.journal, (self.record.round, self.record.phase)
        assignments = {
            task: Assignment(
                task, a.device, seconds=a.seconds, age=place[0] - (a.earlier or self.record).round
            )
            for task, a in self._tasks.items()
        }
        for task in journal.refusals(*place):
            if task in assignments:
                assignments[task] = replace(assignments[task], status=Status.FAILED)
        for update in journal.updates(*place):
            if update.task not in assignments:
                continue
            try:
                weights = self._weights(update)
            except (BlobError, TensorsError) as error:
                logger.error("lost the update %s, which had been counted: %s", update.task, error.args[0])
                assignments[update.task] = replace(assignments[update.task], status=Status.FAILED)
                continue
            self._fold(self._trimmed(update), weights)
            self._bytes_recovered += update.weights.size if update.weights else 0
            assignments[update.task] = replace(assignments[update.task], status=Status.STORED)
        return list(assignments.values())

    # --- what devices say ---------------------------------------------------------------------------------

    def hear(self, message: FromDevice) -> None:
        """Takes in what a device says of these tasks, or of itself."""
        listener = self._around.listener
        match message:
            case DeviceState(online=True):
                self._step(round_events.DeviceOnline(message.device, frozenset(message.tasks)))
            case DeviceState():
                self._step(round_events.DeviceOffline(message.device))
            case Accepted() if self._owns(message):
                self._step(round_events.TaskAccepted(message.task))
            case Failed() if self._owns(message):
                logger.warning("%s failed %s: %s", message.device, message.task, message.reason)
                listener(UpdateRefused(device=message.device, task=message.task, reason=message.reason))
                self._step(round_events.TaskFailed(message.task, message.reason, by_device=True))
            case Progress() if self._owns(message):
                listener(DeviceProgress(device=message.device, step=message.step, fraction=message.fraction))
            case Update():
                self._on_update(message)
            case Chunk() if self._owns(message.header):
                self._on_chunk(message)

    def _owns(self, message: Accepted | Failed | Progress | Update | ChunkHeader) -> bool:
        assigned = self._tasks.get(message.task)
        return assigned is not None and assigned.device == message.device

    def _on_update(self, update: Update) -> None:
        assignment = self._phase.assignments[update.task]
        missing: tuple[int, ...] = ()
        if self._owns(update) and not assignment.status.ended and assignment.status is not Status.CHECKING:
            try:
                self._admission.check_announced(update)
            except UpdateError as error:
                self._refuse(update.device, update.task, str(error.args[0]))
                return
            if update.weights is not None:
                missing = self._around.intake.expect(update.task, update.weights)
        self._step(round_events.UpdateAnnounced(update, missing))

    def _on_chunk(self, chunk: Chunk) -> None:
        task = chunk.header.task
        if self._phase.assignments[task].status is not Status.UPLOADING:
            return
        try:
            missing = self._around.intake.add(chunk)
        except BlobError as error:
            logger.warning("%s sent a bad chunk: %s", chunk.header.device, error.args[0])
            self._spoilt[task] += 1
            if self._spoilt[task] >= SPOILT_AT_MOST:
                self._refuse(chunk.header.device, task, str(error.args[0]))
                return
            update = self._phase.assignments[task].update
            assert update is not None
            assert update.weights is not None
            missing = self._around.intake.expect(task, update.weights)
        except OSError as error:
            # Its chunks are granted again after a while; by then there may be room.
            logger.error("cannot store a chunk of %s: %s", task, error)
            return
        if missing is not None:
            self._step(round_events.ChunkStored(task, missing))

    # --- what follows -------------------------------------------------------------------------------------

    def _step(self, event: round_events.Event) -> None:
        self._phase, actions = rounds.step(self._phase, event, time.monotonic())
        for action in actions:
            self._act(action)

    def _act(self, action: round_events.Action) -> None:
        exchange = self._around.exchange
        match action:
            case round_events.Ask(task):
                self._ask(task)
            case round_events.GrantChunks(task, chunks):
                update = self._phase.assignments[task].update
                if update is not None and update.weights is not None:
                    exchange.grant(update.device, task, update.weights.sha256, chunks)
            case round_events.Store(task):
                self._complete.append(task)
            case round_events.Settle(device, task, accepted, reason):
                exchange.settle(device, task, accepted=accepted, reason=reason)
            case round_events.Withdraw(task):
                exchange.cancel(self._tasks[task].device, task, "It is too late for it.")
            case round_events.Close(reason):
                outstanding = tuple(
                    self._outstanding(a) for a in self.pending if not self._phase.policy.late(a.age + 1)
                )
                self.record = msgspec.structs.replace(self.record, closed=reason, outstanding=outstanding)
                self._around.journal.put_phase(self.record)
                stored = len(self._phase.stored)
                logger.info("%s closed: %s, %d of %d", self.record.phase, reason, stored, len(self._tasks))

    def _outstanding(self, assignment: Assignment) -> Outstanding:
        assigned = self._tasks[assignment.task]
        return assigned.earlier or Outstanding(
            task=assignment.task,
            device=assigned.device,
            round=self.record.round,
            weights=self.record.weights,
            config=assigned.config,
            seconds=assigned.seconds,
        )

    def _ask(self, task: str) -> None:
        assigned = self._tasks[task]
        origin = assigned.earlier or self.record
        left = assigned.seconds - (time.monotonic() - self._phase.opened)
        category = assigned.message.message_type.split(".")[0] if assigned.message else self.record.phase
        self._around.exchange.ask(
            assigned.device,
            task=task,
            round=origin.round,
            phase=category if category in ("train", "evaluate") else "query",
            program=assigned.content or self._program,
            weights=assigned.content or origin.weights,
            config=assigned.config,
            codec=self._codec,
            flower=assigned.message,
            deadline_seconds=max(left, 0.1),
        )

    def _count(self) -> None:
        """Checks complete updates, syncs and journals them together, folds them in, and settles them."""
        tasks, self._complete = self._complete, []
        checked: list[tuple[Update, Weights | None]] = []
        for task in tasks:
            update = self._phase.assignments[task].update
            assert update is not None
            try:
                checked.append((update, self._weights(update)))
            except (BlobError, TensorsError) as error:
                self._refuse(update.device, task, str(error.args[0]))
        self._around.intake.sync(update for update, _ in checked)
        place = (self.record.phase, self.record.round)
        self._around.journal.put_updates(*place, [update for update, _ in checked])
        for update, weights in checked:
            self._fold(self._trimmed(update), weights)
            self._around.listener(
                UpdateCounted(
                    device=update.device,
                    round=self.record.round,
                    phase=self.record.phase,
                    num_examples=update.num_examples,
                    metrics=update.metrics,
                )
            )
            self._step(round_events.UpdateStored(update.task))

    def _refuse(self, device: str, task: str, reason: str) -> None:
        logger.warning("refused %s of %s: %s", task, device, reason)
        self._around.journal.put_refusal(self.record.phase, self.record.round, task, reason)
        self._around.intake.drop(task)
        self._around.listener(UpdateRefused(device=device, task=task, reason=reason))
        self._step(round_events.TaskFailed(task, reason, by_device=False))

    def _weights(self, update: Update) -> Weights | None:
        if update.weights is None:
            return None
        return self._admission.weights(update, self._around.intake.read(update))

    def _trimmed(self, update: Update) -> Update:
        return msgspec.structs.replace(update, metrics=self._admission.metrics_of(update))


def settle_earlier(around: Surroundings, update: Update) -> None:
    """Answers an update of another phase: if we have counted it, its settlement was lost."""
    stored = around.journal.update(update.task)
    accepted = stored is not None and stored.device == update.device
    reason = "" if accepted else "This task is not one of the current round."
    around.exchange.settle(update.device, update.task, accepted=accepted, reason=reason)
