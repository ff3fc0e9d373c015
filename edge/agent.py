"""The agent: a queue of what happens and a loop that does what the session decides."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

import msgspec

from .. import __version__
from ..errors import HedgerowError, MessageError
from ..hardware.process import loaded_modules, resident_mib
from ..hardware.runtime import find_runtime
from ..protocol import messages
from ..protocol.blobs import BlobStore
from ..protocol.link import Broker, Connected, Disconnected, Link, LinkEvent, MqttLink, Received, Will
from ..protocol.messages import DeviceState, Scalar
from ..protocol.topics import Topics
from .assignment import FORBIDDEN_MODULES, Assignment, Bench
from .conditions import probe
from .config import AgentConfig
from .disk import Disk
from .readiness import ReadinessPolicy, waits_for
from .sample_count import count_samples
from .service_manager import ServiceManager
from .session import Session, events, step
from .session.events import Action, Event
from .spool import SPOOL_FOLDER, TRAINED_AT, Spool
from .status import Connection, write_word
from .worker import ProcessWorker, Worker, WorkEvent

if TYPE_CHECKING:
    from .release.installer import Installer

CLOSE_SECONDS = 0.4
WATCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TrainNow:
    """Somebody at the device wants the tasks at hand done."""


Item = (
    LinkEvent
    | WorkEvent
    | events.ReleaseInstalled
    | events.ReleaseOffered
    | events.ReleaseRefused
    | events.ReleaseChanged
    | events.StopAsked
    | TrainNow
)
logger = logging.getLogger(__name__)


class Connect(Protocol):
    """Opens a link to a broker."""

    def __call__(
        self, broker: Broker, *, client_id: str, will: Will | None, on_event: Callable[[LinkEvent], None]
    ) -> Link:
        """See `MqttLink`."""


class Agent:
    """One device's daemon.

    Args:
        config: What it needs to know.
        connect: Opens the link to the broker.
        employ: Makes the worker.
        runtime: What the worker's models run on; by default the TFLite runtime that `config` asks for.
        capabilities: What else the device says of itself.

    Raises:
        RuntimeMissingError: The runtime that `config` asks for is not installed.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        connect: Connect = MqttLink,
        employ: Callable[[Bench, Callable[[WorkEvent], None]], Worker] = ProcessWorker,
        runtime: str = "",
        capabilities: Mapping[str, Scalar] | None = None,
    ) -> None:
        self._config = config
        self._broker = Broker.from_url(config.broker)
        self._connect = connect
        self._employ = employ
        self._folder = Path(config.folder)
        self._topics = Topics(config.fleet)
        self._runtime = runtime or str(find_runtime(config.runtime))
        self._capabilities = dict(capabilities or {})
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._instance = secrets.token_hex(8)
        self._manager = ServiceManager()
        self._hurried: frozenset[str] = frozenset()

    def stop(self) -> None:
        """Asks `run` to end; may be called from a signal handler or another thread."""
        self._queue.put(events.StopAsked())

    def train_now(self) -> None:
        """Has the tasks at hand done whatever the readiness policy says; as `stop`."""
        self._queue.put(TrainNow())

    def run(self) -> None:
        """Serves until `stop`.

        Raises:
            SpoolError: The state folder cannot be used.
        """
        with Spool(self._folder) as self._spool, contextlib.ExitStack() as stack:
            self._blobs = BlobStore(self._folder / "blobs")
            self._installer = self._make_installer()
            self._disk = Disk(self._blobs, self._spool, Path(self._config.samples), self._say)
            self._session = self._restored()
            logger.info("agent %s starts, incarnation %d", self._config.device, self._session.incarnation)
            self._note_connection(connected=False, reason="not connected yet")
            self._worker = self._employ(self._bench(), self._queue.put)
            stack.callback(self._worker.close)
            self._link = self._connect(
                self._broker,
                client_id=self._config.device,
                will=Will(
                    self._topics.state(self._config.device), messages.encode(self._state(online=False))
                ),
                on_event=self._queue.put,
            )
            stack.callback(self._link.close, timeout_seconds=CLOSE_SECONDS)
            self._manager.ready()
            self._loop()
            self._manager.stopping()
        logger.info("agent %s has stopped", self._config.device)

    def _bench(self) -> Bench:
        config = self._config
        return Bench(
            samples=config.samples,
            sampling=config.sampling,
            results=str(self._folder / SPOOL_FOLDER),
            runtime=config.runtime,
            num_threads=config.num_threads,
            niceness=config.niceness,
            memory_limit_mib=config.memory_limit_mib,
            checkpoints=str(self._folder / "checkpoints"),
            checkpoint_seconds=config.checkpoint_seconds,
            personal=config.personal,
            personal_weights=str(self._folder / "personal.safetensors"),
            log_level=config.log_level,
        )

    def _make_installer(self) -> Installer | None:
        if not self._config.channel:
            return None
        # Signatures need cryptography, 8 MiB that a device without a channel does not pay for.
        from .release.installer import Installer

        return Installer(self._config, self._blobs, self._queue.put)

    def _restored(self) -> Session:
        incarnation = self._spool.begin()
        return Session.restored(
            topics=self._topics,
            device=self._config.device,
            incarnation=incarnation,
            results=self._spool.results(),
            over=self._spool.over(),
            blob_limit_bytes=self._config.blob_limit_mib << 20,
            channel=self._config.channel,
            instance=self._instance,
        )

    def _loop(self) -> None:
        item: Item | None = None
        watch_seconds = min(WATCH_SECONDS, self._manager.watchdog_seconds / 3)
        watch_at = time.monotonic()
        while not isinstance(item, events.StopAsked):
            seconds = min(self._session.wake_at, watch_at) - time.monotonic()
            try:
                item = self._queue.get(timeout=max(seconds, 0.0))
            except Empty:
                item = None
            self._advance(events.Tick(time.monotonic()))
            if time.monotonic() >= watch_at:
                watch_at = time.monotonic() + watch_seconds
                self._watch()
            if item is not None and (event := self._event(item)) is not None:
                self._advance(event)

    def _watch(self) -> None:
        """What has to be looked at now and then, for nobody tells us."""
        self._manager.alive("connected" if self._session.connected else "not connected")
        if self._installer is not None:
            try:
                self._installer.watch()
            except (HedgerowError, OSError) as error:
                logger.error("the releases cannot be looked at: %s", error)

    def _event(self, item: Item) -> Event | None:
        """What an item of the queue means to the session; None if it means nothing."""
        match item:
            case Connected():
                logger.info("connected to %s", self._broker)
                self._note_connection(connected=True)
                return events.LinkUp()
            case Disconnected(reason=reason):
                logger.warning("not connected: %s", reason)
                self._note_connection(connected=False, reason=reason)
                return events.LinkDown()
            case Received(topic=topic, payload=payload):
                return self._heard(topic, payload)
            case TrainNow():
                self._hurried = frozenset(job.task.task for job in self._session.jobs)
                return events.Probed(self._waits_for())
            case _:
                return item

    def _heard(self, topic: str, payload: bytes) -> Event | None:
        place = self._topics.parse(topic)
        if place is None or place.device not in ("", self._config.device):
            logger.warning("dropped a message on %s: not ours", topic)
            return None
        if place.kind == "release":
            return events.ReleaseOffered(payload) if payload else None
        if place.kind == "blob":
            logger.debug("received %s", topic)
            return events.ChunkCame(place.sha256, place.chunk, payload)
        try:
            message = messages.decode(place, payload)
        except MessageError as error:
            logger.warning("dropped a message on %s: %s", topic, error.args[0])
            return None
        if isinstance(message, DeviceState):
            return events.OwnStateHeard(message)
        if not isinstance(message, messages.CoordinatorState | messages.DownMessage):
            logger.warning("dropped a message on %s: not for devices", topic)
            return None
        logger.info("received %s", message)
        return events.Heard(message)

    def _advance(self, event: Event) -> None:
        """Takes the event, and all that follows from it, through the session."""
        pending = deque([event])
        while pending:
            self._session, actions = step(self._session, pending.popleft())
            for action in actions:
                answer = self._perform(action)
                if answer is not None:
                    pending.append(answer)

    def _perform(self, action: Action) -> Event | None:
        """Does what the session decided; what came of it, if the session waits for that."""
        match action:
            case events.Publish(message=message):
                self._say(message)
            case events.Announce():
                self._announce(action)
            case events.Subscribe(topics=topics):
                self._link.subscribe(list(topics))
            case events.Unsubscribe(topics=topics):
                self._link.unsubscribe(list(topics))
            case events.Work(task=task):
                return self._work(task)
            case events.JudgeRelease(signed=signed) if self._installer is not None:
                return self._installer.judge(signed)
            case events.InstallRelease(signed=signed) if self._installer is not None:
                self._installer.install(signed)
            case events.Probe():
                return events.Probed(self._waits_for())
            case events.StopWork(task=name):
                self._worker.stop(name)
            case events.Note(text=text):
                logger.info("%s", text)
            case _:
                return self._disk.perform(action)
        return None

    def _say(self, message: messages.UpMessage) -> None:
        kind = messages.kind_of(message)
        noisy = kind in ("progress", "chunk")
        shown = message.header if isinstance(message, messages.Chunk) else message
        logger.log(logging.DEBUG if noisy else logging.INFO, "say %s", shown)
        self._link.publish(self._topics.up(self._config.device, kind), messages.encode(message))

    def _work(self, task: messages.Task) -> Event | None:
        spoiled = self._disk.spoiled(task.program, task.weights)
        if spoiled is not None:
            return spoiled
        self._worker.start(
            Assignment(
                device=self._config.device,
                task=task,
                program=str(self._blobs.path(task.program.sha256)),
                weights=str(self._blobs.path(task.weights.sha256)),
            )
        )
        return None

    def _waits_for(self) -> tuple[str, ...]:
        policy = self._config.readiness
        job = self._session.job
        if policy == ReadinessPolicy() or (job is not None and job.task.task in self._hurried):
            return ()
        conditions = probe(
            Path(self._config.samples),
            trained_at=self._spool.marked(TRAINED_AT),
            own_load=self._config.num_threads if job is not None and job.working else 0.0,
        )
        return waits_for(policy, conditions)

    def _announce(self, action: events.Announce) -> None:
        state = self._state(
            online=action.online, counter=action.counter, epoch=action.epoch, tasks=action.tasks
        )
        if action.twin:
            state = msgspec.structs.replace(state, capabilities=state.capabilities | {"twin": action.twin})
        self._leave_word(state)
        logger.info("say %s", state)
        self._link.publish(self._topics.state(self._config.device), messages.encode(state), retain=True)

    def _state(
        self, *, online: bool, counter: int = 0, epoch: int = 0, tasks: tuple[str, ...] = ()
    ) -> DeviceState:
        usage = self._worker.usage
        forbidden = dict.fromkeys((*loaded_modules(FORBIDDEN_MODULES), *usage.modules_forbidden))
        samples = Path(self._config.samples)
        capabilities: dict[str, Scalar] = {
            "arch": platform.machine(),
            "pid": os.getpid(),
            "rss_mib": round(resident_mib() + self._worker.resident_mib, 1),
            "training_peak_mib": usage.peak_mib,
            "modules_forbidden": ",".join(forbidden),
            "test_examples": count_samples(samples, "test"),
            "waits_for": "; ".join(self._waits_for()),
            "instance": self._instance,
            **self._capabilities,
        }
        if self._installer is not None:
            capabilities |= self._installer.report()
        return DeviceState(
            device=self._config.device,
            incarnation=self._session.incarnation,
            counter=counter,
            epoch=epoch,
            online=online,
            agent=__version__,
            runtime=self._runtime,
            examples=count_samples(samples, "train"),
            capabilities=capabilities,
            tasks=tasks,
        )

    def _note_connection(self, *, connected: bool, reason: str = "") -> None:
        """Leaves word for `hedgerow agent status`, which has no other way to know."""
        connection = Connection(connected=connected, broker=str(self._broker), pid=os.getpid(), reason=reason)
        with contextlib.suppress(OSError):
            connection.write(self._folder)

    def _leave_word(self, state: DeviceState) -> None:
        with contextlib.suppress(OSError):
            write_word(self._folder, state)
