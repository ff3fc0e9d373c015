"""Messages of a Flower app on their way to devices and their answers back, in a thread of its own.

The app's thread computes, sleeps and waits as it likes; this one hears devices all the while. It alone
touches the wire and the phases that are open.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from ..protocol.blobs import BlobStore
from ..protocol.messages import FLOWER_APP, Chunk, DeviceState, Failed, Update
from ..protocol.tensors import Weights
from .exchange import FromDevice
from .flower_admission import FlowerAdmission
from .phase import TICK_SECONDS, Assigned, PhaseRun, Surroundings, settle_earlier
from .policy import TargetOrDeadline
from .records import PhaseRecord

UNAVAILABLE = "The device has gone offline."
FAREWELL_SECONDS = 3.0
logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Open:
    """A batch that is open: its phase, who waits for it, and since when."""

    run: PhaseRun
    closed: Future[None]
    since: float


class Postbox:
    """Keeps any number of batches of messages going; a context manager.

    Args:
        around: Wire, journal, intake, listener.
        store: Contents of messages.
        app: "publisher/name"; only devices with this app are its nodes.
        uploads: How many devices may upload at once.
        offline_seconds: A device that is offline for so long answers no more.
        answer_bytes_at_most: No answer is larger.
    """

    def __init__(
        self,
        around: Surroundings,
        store: BlobStore,
        *,
        app: str,
        uploads: int,
        offline_seconds: float,
        answer_bytes_at_most: int,
    ) -> None:
        self._around = around
        self._store = store
        self._app = app
        self._uploads = uploads
        self._offline_seconds = offline_seconds
        self._answer_bytes_at_most = answer_bytes_at_most
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._open: dict[int, _Open] = {}
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="postbox", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._around.exchange.wake()
        self._thread.join()

    # --- for the app's thread -----------------------------------------------------------------------------

    def devices(self) -> tuple[str, ...]:
        """The devices that are online and have the app, in order of their names."""
        return self._call(self._devices)

    def post(self, record: PhaseRecord, contents: Mapping[str, bytes], *, seconds: float) -> Future[None]:
        """Sends a batch, journaled first, or goes on with one that is in the journal already.

        Args:
            record: The batch.
            contents: Of its messages, by their digests.
            seconds: It is closed after so long with the answers that have come.

        Returns:
            Done when the batch is closed.
        """
        return self._call(lambda: self._post(record, contents, seconds))

    def wait(self, future: Future[T]) -> T:
        """The result, as soon as the thread has it.

        Raises:
            BaseException: What ended the thread.
        """
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if future.done():
                    raise
                if self._error is not None:
                    raise self._error from None

    def answers(self, number: int) -> dict[str, Update | str]:
        """What has come for a batch by now, in order: updates first, then why there will be none."""
        journal = self._around.journal
        updates: dict[str, Update | str] = {u.task: u for u in journal.updates(number, "messages")}
        return updates | dict(journal.refusals(number, "messages"))

    def _call(self, function: Callable[[], T]) -> T:
        future: Future[T] = Future()
        self._calls.put((function, future))
        self._around.exchange.wake()
        return self.wait(future)

    # --- the thread ---------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._recover()
            ticked = float("-inf")
            while not self._closing.is_set():
                busy = any(batch.run.busy for batch in self._open.values())
                message = self._around.exchange.next(0.0 if busy else TICK_SECONDS)
                if message is not None:
                    self._hear(message)
                while not self._calls.empty():
                    self._answer(*self._calls.get())
                due = time.monotonic() - ticked >= TICK_SECONDS
                if due:
                    ticked = time.monotonic()
                    self._look_for_the_offline()
                for batch in self._open.values():
                    batch.run.work(idle=message is None, due=due)
                self._clear_away()
            self._say_goodbye()
        except BaseException as error:  # noqa: BLE001 - the app's thread raises it
            self._error = error
            for batch in self._open.values():
                batch.closed.set_exception(error)
            while not self._calls.empty():
                self._calls.get()[1].set_exception(error)

    @staticmethod
    def _answer(function: Callable[[], Any], future: Future[Any]) -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
            raise

    def _devices(self) -> tuple[str, ...]:
        roster = self._around.exchange.roster
        return tuple(d for d in roster.online() if roster.states[d].capabilities.get(FLOWER_APP) == self._app)

    def _recover(self) -> None:
        """Goes on with the batches that were open, before the app asks for them again."""
        number, journal = 1, self._around.journal
        while (record := journal.phase(number, "messages")) is not None:
            if not record.closed:
                self._begin(record)
            number += 1

    def _post(self, record: PhaseRecord, contents: Mapping[str, bytes], seconds: float) -> Future[None]:
        if record.round not in self._open:
            for data in contents.values():
                self._store.put(data, codec="flower")
            self._around.journal.put_phase(record)
            self._begin(record)
        batch = self._open[record.round]
        batch.run.judge_by(TargetOrDeadline(target=len(record.letters), seconds=seconds))
        return batch.closed

    def _begin(self, record: PhaseRecord) -> None:
        around = self._around
        tasks = {
            letter.task: Assigned(
                letter.device, {}, letter.message.ttl_seconds, content=letter.content, message=letter.message
            )
            for letter in record.letters
        }
        trains = all(letter.message.message_type == "train" for letter in record.letters)
        run = PhaseRun(
            record,
            tasks,
            program=record.weights,
            codec="flower",
            admission=FlowerAdmission(self._answer_bytes_at_most, finite=trains),
            policy=TargetOrDeadline(target=len(tasks), seconds=float("inf")),
            uploads=self._uploads,
            fold=_keep,
            around=around,
        )
        self._open[record.round] = _Open(run, Future(), time.monotonic())
        for blob in {letter.content.sha256: letter.content for letter in record.letters}.values():
            around.exchange.downlink.offer(blob)
        run.begin()

    def _hear(self, message: FromDevice) -> None:
        if isinstance(message, DeviceState):
            self._cancel_strangers(message)
            for batch in self._open.values():
                batch.run.hear(message)
            return
        task = message.header.task if isinstance(message, Chunk) else getattr(message, "task", "")
        run = next((batch.run for batch in self._open.values() if batch.run.has(task)), None)
        if run is None:
            if isinstance(message, Update):
                settle_earlier(self._around, message)
        elif isinstance(message, Failed):
            if any(a.task == task and a.device == message.device for a in run.pending):
                logger.warning("%s failed %s: %s", message.device, task, message.reason)
                run.give_up(task, message.reason)
        else:
            run.hear(message)

    def _cancel_strangers(self, state: DeviceState) -> None:
        """A device may still work on what nobody waits for: its cancellation was lost, or the run is new."""
        for task in state.tasks if state.online else ():
            if not any(batch.run.has(task) for batch in self._open.values()):
                self._around.exchange.cancel(state.device, task, "Nobody waits for it.")

    def _look_for_the_offline(self) -> None:
        """Flower's server says of a node that is away that it is; one that only sleeps has some time."""
        now, roster = time.monotonic(), self._around.exchange.roster
        if not self._around.exchange.connected:
            return
        for batch in self._open.values():
            for assignment in batch.run.pending:
                left = roster.left_at(assignment.device)
                if left is not None and now - max(left, batch.since) >= self._offline_seconds:
                    batch.run.give_up(assignment.task, UNAVAILABLE)

    def _clear_away(self) -> None:
        """Forgets batches that are closed, and what only they needed."""
        over = [number for number, batch in self._open.items() if batch.run.record.closed]
        if not over:
            return
        closed = [self._open.pop(number).closed for number in over]
        letters = [letter for batch in self._open.values() for letter in batch.run.record.letters]
        kept = {letter.content.sha256: letter.content for letter in letters}
        self._around.exchange.downlink.withdraw_all_but(*kept.values())
        self._store.keep(set(kept))
        for future in closed:
            future.set_result(None)

    def _say_goodbye(self) -> None:
        """Leaves no chunk behind once everything was answered."""
        if self._open:
            return
        exchange, until = self._around.exchange, time.monotonic() + FAREWELL_SECONDS
        exchange.downlink.withdraw_all_but()
        while not exchange.downlink.idle and time.monotonic() < until:
            exchange.next(0.05)


def _keep(update: Update, weights: Weights | None) -> None:
    """An answer stays where it is, on disk, until the app asks for it."""
