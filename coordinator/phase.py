"""One phase of a round in the world: the state machine of `rounds` between wire, disk and clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..errors import BlobError, TensorsError
from ..protocol.blobs import BlobStore
from ..protocol.messages import Accepted, BlobReference, Chunk, DeviceState, Failed, Progress, Scalar, Update
from ..protocol.tensors import Weights, check_like, decode
from . import rounds
from .events import DeviceProgress, Listener, UpdateCounted, UpdateRefused
from .exchange import Exchange, FromDevice
from .journal import Journal, PhaseRecord
from .rounds import Assignment, Phase, Status

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Assigned:
    """What one device is asked in this phase.

    Args:
        device: Who.
        config: What the strategy wants it to know.
    """

    device: str
    config: dict[str, Scalar]


class PhaseRun:
    """Runs one phase to its end.

    Args:
        record: The phase as the journal has it.
        tasks: What every device is asked, by task id.
        program: The trainable file.
        template: The model's tensors, which every update must be like.
        seconds: The phase closes after so long.
        uploads: How many devices may upload at once.
        exchange: The wire.
        journal: Where updates are written before they count.
        store: Where their bytes are.
        fold: Takes in each update once, with its weights (None for an evaluation).
        listener: Told what happens.
    """

    def __init__(
        self,
        record: PhaseRecord,
        tasks: Mapping[str, Assigned],
        *,
        program: BlobReference,
        template: Weights,
        seconds: float,
        uploads: int,
        exchange: Exchange,
        journal: Journal,
        store: BlobStore,
        fold: Callable[[Update, Weights | None], None],
        listener: Listener,
    ) -> None:
        self._record = record
        self._tasks = tasks
        self._program = program
        self._template = template
        self._exchange = exchange
        self._journal = journal
        self._store = store
        self._fold = fold
        self._listener = listener
        self._expected: dict[str, BlobReference] = {}
        self.bytes_up = 0
        assignments = {task: Assignment(task, assigned.device) for task, assigned in tasks.items()}
        self._phase = Phase(
            assignments=MappingProxyType(assignments),
            deadline=time.monotonic() + seconds,
            target=len(tasks),
            uploads=uploads,
        )

    def run(self, stopping: Callable[[], bool]) -> None:
        """Blocks until the phase is closed, or `stopping` says that the coordinator is to stop."""
        self._recover()
        for device in self._exchange.roster.online():
            self._step(rounds.DeviceOnline(device))
        while not self._phase.closed and not stopping():
            message = self._exchange.next(TICK_SECONDS)
            if message is not None:
                self._on_message(message)
            self._step(rounds.Tick())

    @property
    def closed(self) -> str:
        """Why the phase closed; empty while it is open."""
        return self._phase.closed

    def _recover(self) -> None:
        """Counts what was counted before the coordinator was stopped."""
        for update in self._journal.updates(self._record.round, self._record.phase):
            assignment = self._phase.assignments.get(update.task)
            if assignment is None:
                continue
            self._fold(update, self._read(update))
            counted = replace(assignment, status=Status.STORED, update=update)
            assignments = MappingProxyType({**self._phase.assignments, update.task: counted})
            self._phase = replace(self._phase, assignments=assignments)

    def _on_message(self, message: FromDevice) -> None:
        match message:
            case DeviceState(online=True):
                self._step(rounds.DeviceOnline(message.device))
            case DeviceState():
                self._step(rounds.DeviceOffline(message.device))
            case Accepted():
                self._if_own(message.device, message.task, rounds.TaskAccepted(message.task))
            case Failed():
                logger.warning("%s failed %s: %s", message.device, message.task, message.reason)
                self._listener(UpdateRefused(device=message.device, task=message.task, reason=message.reason))
                failed = rounds.TaskFailed(message.task, message.reason, by_device=True)
                self._if_own(message.device, message.task, failed)
            case Progress():
                self._listener(
                    DeviceProgress(device=message.device, step=message.step, fraction=message.fraction)
                )
            case Update():
                self._on_update(message)
            case Chunk():
                self._on_chunk(message)

    def _if_own(self, device: str, task: str, event: rounds.Event) -> None:
        if task in self._tasks and self._tasks[task].device == device:
            self._step(event)

    def _on_update(self, update: Update) -> None:
        if update.task not in self._tasks and self._journal.has_update(update.task):
            # Its settlement was lost when the round closed: the device still holds what we have counted.
            self._exchange.settle(update.device, update.task, accepted=True)
            return
        if update.task in self._tasks and (self._record.phase == "train") != (update.weights is not None):
            logger.warning("%s announced an update that does not fit its task %s", update.device, update.task)
            return
        missing: tuple[int, ...] = ()
        if update.weights is not None:
            self._expected.setdefault(update.task, update.weights)
            missing = self._store.missing(update.weights)
        self._step(rounds.UpdateAnnounced(update, missing))

    def _on_chunk(self, chunk: Chunk) -> None:
        header = chunk.header
        assignment = self._phase.assignments.get(header.task)
        blob = self._expected.get(header.task)
        if (
            assignment is None
            or assignment.device != header.device
            or assignment.status is not Status.UPLOADING
        ):
            return
        if blob is None or blob.sha256 != header.sha256:
            return
        try:
            if header.chunk in self._store.missing(blob):
                self.bytes_up += len(chunk.data)
                self._store.add_chunk(blob, header.chunk, chunk.data)
        except BlobError as error:
            logger.warning("%s sent a bad chunk: %s", header.device, error.args[0])
        self._step(rounds.ChunkStored(header.task, self._store.missing(blob)))

    def _step(self, event: rounds.Event) -> None:
        pending = [event]
        while pending:
            self._phase, actions = rounds.step(self._phase, pending.pop(0), time.monotonic())
            for action in actions:
                follow_up = self._act(action)
                if follow_up is not None:
                    pending.append(follow_up)

    def _act(self, action: rounds.Action) -> rounds.Event | None:
        match action:
            case rounds.Ask(task):
                self._ask(task)
            case rounds.GrantChunks(task, chunks):
                self._exchange.grant(self._tasks[task].device, task, self._expected[task].sha256, chunks)
            case rounds.Store(task):
                return self._count(task)
            case rounds.Settle(device, task, accepted, reason):
                self._exchange.settle(device, task, accepted=accepted, reason=reason)
            case rounds.Withdraw(task):
                self._exchange.cancel(self._tasks[task].device, task, "Its round has closed.")
            case rounds.Close(reason):
                stored = len(self._phase.stored)
                logger.info("%s closed: %s, %d of %d", self._record.phase, reason, stored, len(self._tasks))
        return None

    def _ask(self, task: str) -> None:
        assigned = self._tasks[task]
        self._exchange.ask(
            assigned.device,
            task=task,
            round=self._record.round,
            phase=self._record.phase,
            program=self._program,
            weights=self._record.weights,
            config=assigned.config,
            deadline_seconds=max(self._phase.deadline - time.monotonic(), 0.1),
        )

    def _count(self, task: str) -> rounds.Event:
        """Checks a complete update, journals it, and folds it in, in this order."""
        update = self._phase.assignments[task].update
        assert update is not None
        try:
            if update.num_examples < 1:
                raise TensorsError(f"Expected num_examples of at least 1, received {update.num_examples}.")
            weights = self._read(update)
        except (BlobError, TensorsError) as error:
            logger.warning("refused %s of %s: %s", task, update.device, error.args[0])
            self._listener(UpdateRefused(device=update.device, task=task, reason=str(error.args[0])))
            return rounds.TaskFailed(task, str(error.args[0]), by_device=False)
        self._journal.put_update(self._record.phase, update)
        self._fold(update, weights)
        self._listener(
            UpdateCounted(
                device=update.device,
                round=update.round,
                phase=self._record.phase,
                num_examples=update.num_examples,
                metrics=update.metrics,
            )
        )
        return rounds.UpdateStored(task)

    def _read(self, update: Update) -> Weights | None:
        if update.weights is None:
            return None
        return check_like(decode(self._store.read(update.weights)), self._template)
