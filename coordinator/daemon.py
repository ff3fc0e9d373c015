"""The coordinator: runs a Flower strategy's rounds over the fleet, and can be killed at any moment.

Every step first asks the journal whether it is done already, so that a start and a restart are the same code:

    round r:  open train  -> updates -> aggregate -> open evaluate -> updates -> aggregate -> round record
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import BlobError, CoordinatorConfigError, NoUpdateError
from ..hardware import interpreter
from ..protocol import tensors
from ..protocol.blobs import BlobStore, write_durably
from ..protocol.link import Broker, LinkEvent, MqttLink, Will, check_reachable
from ..protocol.messages import BlobReference, Update
from ..protocol.tensors import Weights
from ..protocol.topics import Topics
from . import flower
from .aggregation import RunningMean
from .config import CoordinatorConfig
from .downlink import Downlink
from .evaluation import HeldOutEvaluation
from .events import DeviceReport, DevicesOnline, Event, Finished, Listener, PhaseOpened, RoundEnded, Started
from .exchange import Exchange
from .journal import Journal, PhaseName, PhaseRecord, RoundRecord
from .phase import Assigned, PhaseRun
from .roster import node_id
from .strategy_state import restore_state, save_state

logger = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - not an error: the way out of nested loops when SIGTERM comes
    """The coordinator was told to stop."""


@dataclass(slots=True)
class Replies:
    """What a phase's updates add up to.

    Args:
        mean: Of all of them.
        updates: Each of them, for strategies that need every reply.
    """

    mean: RunningMean
    updates: list[Update]


class Coordinator:
    """Runs the rounds of one configuration to their end; a context manager.

    Args:
        config: What to run.
        listener: Told what happens, on this thread.
        stopping: Says whether to stop; asked several times a second.
    """

    def __init__(
        self, config: CoordinatorConfig, *, listener: Listener, stopping: Callable[[], bool]
    ) -> None:
        self._config = config
        self._listener = listener
        self._stopping = stopping
        self._topics = Topics(config.fleet)
        broker = Broker.from_url(config.broker)
        check_reachable(broker)
        flower.quiet()
        self._strategy = flower.make_strategy(config.strategy.name, config.strategy.arguments)
        self._program = _load_program(config.model)
        self._journal = Journal(config.folder)
        self._store = BlobStore(config.folder / "blobs")
        self._program_blob = self._store.put(config.model.read_bytes())
        self._template: Weights = self._program.run("get_weights", {})
        self._held_out = (
            None if config.test_data is None else HeldOutEvaluation(self._program, config.test_data)
        )
        self._run = self._journal.run()
        self._epoch = self._journal.next_epoch()

        def connect(will: Will, on_event: Callable[[LinkEvent], None]) -> MqttLink:
            client_id = f"{config.fleet}-coordinator"
            return MqttLink(broker, client_id=client_id, will=will, on_event=on_event)

        self._exchange = Exchange(
            self._topics,
            self._epoch,
            connect=connect,
            open_downlink=lambda link: Downlink(link, self._topics, self._store),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exchange.close()
        self._journal.close()
        self._program.close()

    def run(self) -> Path:
        """Runs all rounds.

        Returns:
            The final model's weights, a safetensors file.

        Raises:
            Stopped: `stopping` said so; the next start goes on here.
            NoUpdateError: No device's update was ever aggregated.
        """
        done = self._journal.rounds()
        weights = done[-1].weights if done else self._first_round()
        first = done[-1].round + 1 if done else 1
        self._listener(Started(epoch=self._epoch, round=first, rounds=self._config.rounds))
        self._restore_strategy()
        self._wait_for_devices(self._config.minimum_devices if done else self._config.start_devices)
        for round_ in range(first, self._config.rounds + 1):
            weights = self._round(round_, weights)
        if not any(record.devices for record in self._journal.rounds()):
            raise NoUpdateError(f"Expected updates in {self._config.rounds} rounds, received none.")
        self._exchange.downlink.withdraw_all_but()
        final = self._config.folder / "final.safetensors"
        write_durably(final, self._store.read(weights))
        self._listener(Finished(weights=str(final), devices=self._reports()))
        return final

    # --- one round ----------------------------------------------------------------------------------------

    def _round(self, round_: int, weights: BlobReference) -> BlobReference:
        self._exchange.downlink.withdraw_all_but(self._program_blob, weights)
        train = self._phase(round_, "train", weights)
        result = train.result
        assert result is not None
        evaluate = self._phase(round_, "evaluate", result)
        held_out = self._evaluate_held_out(result)
        record = RoundRecord(
            round=round_,
            devices=train.devices,
            device_loss=evaluate.metrics.get("loss"),
            device_accuracy=evaluate.metrics.get("accuracy"),
            held_out_loss=held_out.get("loss"),
            held_out_accuracy=held_out.get("accuracy"),
            seconds=train.seconds + evaluate.seconds,
            bytes_down=train.bytes_down + evaluate.bytes_down,
            bytes_up=train.bytes_up + evaluate.bytes_up,
            weights=result,
        )
        self._journal.put_round(record)
        self._store.keep({self._program_blob.sha256, weights.sha256, result.sha256})
        self._listener(RoundEnded(record=record))
        return result

    def _phase(self, round_: int, phase: PhaseName, weights: BlobReference) -> PhaseRecord:
        record = self._journal.phase(round_, phase)
        if record is not None and record.result is not None:
            return record
        if record is None:
            self._wait_for_devices(self._config.minimum_devices)
            available = self._exchange.roster.online()
            record = PhaseRecord(round=round_, phase=phase, weights=weights, available=available)
        messages = self._configure(record)
        self._journal.put_phase(record)
        started, sent = time.monotonic(), self._exchange.downlink.bytes_sent
        self._exchange.downlink.offer(self._program_blob)
        self._exchange.downlink.offer(weights)
        replies, run = self._collect(record, messages)
        result, metrics = self._aggregate(record, replies, next(iter(messages.values()), None))
        finished = PhaseRecord(
            round=round_,
            phase=phase,
            weights=weights,
            available=record.available,
            result=result,
            metrics=metrics,
            devices=len(replies.updates),
            bytes_up=run.bytes_up,
            bytes_down=self._exchange.downlink.bytes_sent - sent,
            seconds=time.monotonic() - started,
        )
        if phase == "train":
            self._save_strategy(round_)
        self._journal.put_phase(finished)
        return finished

    def _configure(self, record: PhaseRecord) -> dict[str, Any]:
        """The strategy's messages by device.

        The journal has the devices that were available, and the seed decides the rest: after a restart the
        strategy samples the same devices again.
        """
        by_node = {node_id(device): device for device in record.available}
        grid = flower.NodeGrid(lambda: list(by_node))
        arrays = flower.to_arrays(tensors.decode(self._store.read(record.weights)))
        random.seed(f"{self._config.seed}/{record.round}/{record.phase}")
        train = record.phase == "train"
        configure = self._strategy.configure_train if train else self._strategy.configure_evaluate
        config = flower.to_config(self._config.train if train else self._config.evaluate)
        messages = configure(record.round, arrays, config, grid)
        return {by_node[message.metadata.dst_node_id]: message for message in messages}

    def _collect(self, record: PhaseRecord, messages: dict[str, Any]) -> tuple[Replies, PhaseRun]:
        replies = Replies(mean=RunningMean.empty(), updates=[])

        def fold(update: Update, weights: Weights | None) -> None:
            replies.updates.append(update)
            replies.mean = replies.mean.fold(weights or {}, update.metrics, update.num_examples)

        tasks = {
            f"{self._run}-{record.round}-{record.phase}-{device}": Assigned(device, flower.config_of(message))
            for device, message in messages.items()
        }
        run = PhaseRun(
            record,
            tasks,
            program=self._program_blob,
            template=self._template,
            seconds=self._config.round_seconds,
            uploads=self._config.uploads,
            exchange=self._exchange,
            journal=self._journal,
            store=self._store,
            fold=fold,
            listener=self._listener,
        )
        self._listener(PhaseOpened(round=record.round, phase=record.phase, devices=tuple(messages)))
        run.run(self._stopping)
        if not run.closed:
            raise Stopped
        return replies, run

    def _aggregate(
        self, record: PhaseRecord, replies: Replies, message: Any | None
    ) -> tuple[BlobReference, dict[str, float]]:
        """The strategy's verdict on a phase: the next model and its metrics."""
        if not replies.updates or message is None:
            logger.warning("%s of round %d has no update: the model stays", record.phase, record.round)
            return record.weights, {}
        messages = self._messages(record, replies, message)
        if record.phase == "evaluate":
            metrics = self._strategy.aggregate_evaluate(record.round, messages)
            return record.weights, _plain(metrics)
        arrays, metrics = self._strategy.aggregate_train(record.round, messages)
        if arrays is None:
            return record.weights, _plain(metrics)
        weights = tensors.check_like(flower.from_arrays(arrays), self._template)
        return self._store.put(tensors.encode(weights), codec="f32"), _plain(metrics)

    def _messages(self, record: PhaseRecord, replies: Replies, message: Any) -> list[Any]:
        if record.phase == "evaluate" or flower.is_mean_type(self._strategy):
            mean = replies.mean
            weights = mean.weights() if record.phase == "train" else None
            return [flower.make_reply(message, weights, mean.metrics(), mean.num_examples)]
        shared = replies.mean.metric_sums.keys()
        return [
            flower.make_reply(
                message,
                self._read(update),
                {name: update.metrics[name] for name in sorted(shared)},
                update.num_examples,
            )
            for update in replies.updates
        ]

    def _read(self, update: Update) -> Weights:
        assert update.weights is not None
        return tensors.check_like(tensors.decode(self._store.read(update.weights)), self._template)

    # --- around the rounds --------------------------------------------------------------------------------

    def _first_round(self) -> BlobReference:
        known = self._journal.fact("initial_weights")
        if known is None:
            blob = self._store.put(tensors.encode(self._template), codec="f32")
            self._journal.set_fact("initial_weights", blob.sha256)
            return blob
        path = self._store.path(known)
        if not path.exists():
            raise BlobError(f"Expected the first model {known} in {self._config.folder}, received nothing.")
        return self._store.put(path.read_bytes(), codec="f32")

    def _wait_for_devices(self, wanted: int) -> None:
        shown = -1
        while (online := len(self._exchange.roster.online())) < wanted:
            if online != shown:
                self._listener(DevicesOnline(online=online, wanted=wanted))
                shown = online
            if self._stopping():
                raise Stopped
            self._exchange.next(0.25)

    def _evaluate_held_out(self, weights: BlobReference) -> dict[str, float]:
        if self._held_out is None:
            return {}
        return self._held_out.evaluate(tensors.decode(self._store.read(weights)))

    def _save_strategy(self, round_: int) -> None:
        write_durably(self._config.folder / f"strategy-{round_}.safetensors", save_state(self._strategy))
        (self._config.folder / f"strategy-{round_ - 2}.safetensors").unlink(missing_ok=True)

    def _restore_strategy(self) -> None:
        """Gives the strategy what it knew after the last training phase that the journal has."""
        done = len(self._journal.rounds())
        for round_ in (done + 1, done):
            record = self._journal.phase(round_, "train")
            if record is not None and record.result is not None:
                restore_state(
                    self._strategy, (self._config.folder / f"strategy-{round_}.safetensors").read_bytes()
                )
                return

    def _reports(self) -> tuple[DeviceReport, ...]:
        """Asks the wire for what is still on its way, then what every device last said."""
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            self._exchange.next(0.05)
        return tuple(
            DeviceReport(
                device=state.device,
                online=state.online,
                runtime=state.runtime,
                examples=state.examples,
                capabilities=dict(state.capabilities),
            )
            for state in self._exchange.roster.states.values()
        )


def _plain(metrics: Any) -> dict[str, float]:
    """A MetricRecord's numbers."""
    return {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}


def _load_program(model: Path) -> interpreter.Interpreter:
    program = interpreter.load(model)
    needed = {"get_weights", "set_weights", "train", "evaluate"}
    if not needed <= program.signatures().keys():
        raise CoordinatorConfigError(
            f"Expected a trainable file with the signatures {', '.join(sorted(needed))},"
            f" received {model} with {', '.join(sorted(program.signatures())) or 'none'}."
        )
    return program


__all__ = ["Coordinator", "Event", "Stopped"]
