"""The rounds of a Flower strategy, in an order that can be taken up again after any crash.

Every step first asks the journal whether it is done already, so that a start and a restart are the same code:

    round r:  open train -> updates -> close -> aggregate -> open evaluate -> ... -> round record
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError

from ..errors import StrategyError
from ..protocol import tensors
from ..protocol.blobs import BlobStore, write_durably
from ..protocol.messages import BlobReference, Update, travels
from ..protocol.tensors import Weights
from . import flower, flower_strategies
from .admission import Admission
from .config import CoordinatorConfig
from .events import DevicesOnline, PhaseOpened, RoundEnded
from .lateness import Lateness
from .phase import Assigned, PhaseRun, Surroundings
from .policy import MakePolicy, TargetOrDeadline
from .records import Outstanding, PhaseName, PhaseRecord, RoundRecord
from .replies import Replies, replies_for
from .roster import node_id
from .selection import device_seconds, spares
from .strategy_state import restore_state, save_state

logger = logging.getLogger(__name__)
ANSWERS_REMEMBERED = 3
WAIT_SECONDS = 0.1
_PHASES: tuple[PhaseName, ...] = ("train", "evaluate")


class Stopped(Exception):  # noqa: N818 - not an error: the way out of nested loops when SIGTERM comes
    """The coordinator was told to stop."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained.

    Args:
        program: The trainable file.
        template: Its tensors.
        evaluation_metrics: What its `evaluate` signature gives.
    """

    program: BlobReference
    template: Weights
    evaluation_metrics: frozenset[str]


class RoundLoop:
    """Runs rounds.

    Args:
        config: What to run.
        model: What is trained.
        store: Where models are.
        around: Wire, journal, intake, listener.
        evaluate: The model on the coordinator's own test data; nothing if it has none.
        policy: When a training phase closes, and what late updates are worth.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        model: Model,
        *,
        store: BlobStore,
        around: Surroundings,
        evaluate: Callable[[Weights], dict[str, float]],
        policy: MakePolicy = TargetOrDeadline,
    ) -> None:
        self._config = config
        self._model = model
        self._store = store
        self._around = around
        self._evaluate = evaluate
        self._policy = policy
        self._run = around.journal.run()
        self._strategy = self._make_strategy()
        self._answered: dict[str, tuple[float, ...]] = {}
        self._restore_strategy()
        self._restore_answers()

    def round(self, round_: int, weights: BlobReference) -> BlobReference:
        """Runs a round, or what is left of it, and returns the model after it.

        Raises:
            Stopped: The coordinator is to stop before the round is over.
        """
        train = self._phase(round_, "train", weights)
        result = train.result
        assert result is not None
        evaluate = self._phase(round_, "evaluate", result)
        held_out = self._evaluate(self._read(result))
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
            failure=train.failure,
        )
        self._around.journal.put_round(record)
        starts = {task.weights.sha256 for task in train.outstanding}
        self._store.keep({self._model.program.sha256, weights.sha256, result.sha256, *starts})
        self._around.intake.keep(())
        self._around.listener(RoundEnded(record=record))
        return result

    def _phase(self, round_: int, phase: PhaseName, weights: BlobReference) -> PhaseRecord:
        record = self._around.journal.phase(round_, phase)
        if record is not None and record.result is not None:
            return record
        outstanding = self._outstanding(round_, phase)
        models = {blob.sha256: blob for blob in (weights, *(task.weights for task in outstanding))}
        self._around.exchange.downlink.withdraw_all_but(self._model.program, *models.values())
        new = record is None
        if record is None:
            available = self._wait_for_devices(round_, phase)
            earlier = outstanding if phase == "train" else ()
            record = PhaseRecord(
                round=round_, phase=phase, weights=weights, available=available, earlier=earlier
            )
        tasks, target, message = self._configure(record)
        if new:
            self._around.journal.put_phase(record)
        started, sent = time.monotonic(), self._around.exchange.downlink.bytes_sent
        if not record.closed:
            self._around.exchange.downlink.offer(self._model.program)
            for blob in models.values():
                self._around.exchange.downlink.offer(blob)
            self._around.listener(
                PhaseOpened(round=round_, phase=phase, devices=tuple(a.device for a in tasks.values()))
            )
        run, replies, count = self._collect(record, tasks, target)
        finished = msgspec.structs.replace(
            self._aggregate(run.record, replies, count, message),
            devices=count,
            bytes_up=run.bytes_up,
            bytes_down=self._around.exchange.downlink.bytes_sent - sent,
            seconds=time.monotonic() - started,
        )
        if phase == "train":
            self._save_strategy(round_)
        self._around.journal.put_phase(finished)
        return finished

    def _outstanding(self, round_: int, phase: PhaseName) -> tuple[Outstanding, ...]:
        """The training tasks that devices still work on when a phase opens, as the policy lets them."""
        before = self._around.journal.phase(round_ - 1 if phase == "train" else round_, "train")
        return () if before is None else before.outstanding

    # --- who is asked -------------------------------------------------------------------------------------

    def _available(self) -> tuple[str, ...]:
        roster = self._around.exchange.roster
        there = roster.available(self._config.asleep_seconds)
        return tuple(device for device in there if self._config.eligible.admits(roster.states[device]))

    def _wait_for_devices(self, round_: int, phase: PhaseName) -> tuple[str, ...]:
        """The devices to choose from, once there are enough; for an evaluation, those in time."""
        config, train = self._config, phase == "train"
        wanted = config.start_devices if round_ == 1 and train else config.minimum_devices
        wanted = max(wanted, flower_strategies.needed_nodes(self._strategy, train=train))
        until = float("inf") if train else time.monotonic() + config.round_seconds
        shown = -1
        while len(available := self._available()) < wanted and time.monotonic() < until:
            if len(available) != shown:
                shown = len(available)
                self._around.listener(DevicesOnline(online=shown, wanted=wanted))
            if self._around.stopping():
                raise Stopped
            self._hear(WAIT_SECONDS)
        return available

    def _hear(self, seconds: float) -> None:
        """Lets the roster grow for a while: nothing else that devices say is of use between phases."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._around.exchange.next(left)

    def _configure(self, record: PhaseRecord) -> tuple[dict[str, Assigned], int, Any]:
        """What is asked of whom, how many answers are enough, and the strategy's message.

        The journal has the devices that were available, and the seed decides the rest: after a restart the
        same devices are asked again.
        """
        train = record.phase == "train"
        if len(record.available) < flower_strategies.needed_nodes(self._strategy, train=train):
            return {}, 0, None
        seed = f"{self._config.seed}/{record.round}/{record.phase}"
        by_node = {node_id(device): device for device in record.available}
        messages = flower.configure(
            self._strategy,
            record.round,
            self._read(record.weights),
            dict(self._config.train if train else self._config.evaluate),
            nodes=list(by_node),
            train=train,
            seed=seed,
        )
        chosen = {by_node[message.metadata.dst_node_id]: message for message in messages}
        if not chosen:
            return {}, 0, None
        first = next(iter(chosen.values()))
        told = flower.config_of(first)
        if not travels(told):
            raise StrategyError(f"Expected a strategy that tells its nodes finite numbers, received {told}.")
        factor = self._config.over_selection if train else 1.0
        more = spares(list(chosen), record.available, factor=factor, seed=seed)
        configs = {device: flower.config_of(message) for device, message in chosen.items()}
        configs |= {device: flower.config_of(first) for device in more}
        busy = {task.device for task in self._outstanding(record.round, record.phase)}
        tasks = {
            f"{self._run}-{record.round}-{record.phase}-{device}": Assigned(
                device, config, self._seconds(device)
            )
            for device, config in configs.items()
            if device not in busy
        }
        tasks |= {
            one.task: Assigned(one.device, one.config, one.seconds, earlier=one) for one in record.earlier
        }
        return tasks, len(chosen), first

    def _seconds(self, device: str) -> float:
        config = self._config
        return device_seconds(
            device,
            self._answered,
            factor=config.device_factor,
            floor=config.device_seconds,
            limit=config.round_seconds,
        )

    # --- what they answer ---------------------------------------------------------------------------------

    def _collect(
        self, record: PhaseRecord, tasks: dict[str, Assigned], target: int
    ) -> tuple[PhaseRun, Replies, int]:
        """Runs the phase; the run, the replies, and how many there are."""
        train, config = record.phase == "train", self._config
        start = self._read(record.weights)
        make = self._policy if train else TargetOrDeadline
        policy = make(target, config.round_seconds)
        earlier = {task.task: task for task in record.earlier}
        lateness = Lateness(record.round, start, earlier, policy, self._read)

        def read(update: Update) -> Weights:
            weights = tensors.check_like(tensors.decode(self._around.intake.read(update)), start)
            return lateness.forward(update, weights)

        replies = replies_for(self._strategy, train=train, start=start, read=read)
        metrics = flower_strategies.train_metrics(self._strategy) if train else self._model.evaluation_metrics
        admission = Admission.of(
            record,
            start,
            metrics=metrics,
            examples_at_most=config.examples_at_most,
            judge=replies.judge,
            lateness=lateness,
        )
        counted: list[str] = []

        def fold(update: Update, weights: Weights | None) -> None:
            replies.fold(update, weights)
            counted.append(update.device)
            self._remember(update)

        self._around.intake.keep(tasks)
        run = PhaseRun(
            record,
            tasks,
            program=self._model.program,
            codec=config.codec,
            admission=admission,
            policy=policy,
            uploads=config.uploads,
            fold=fold,
            around=self._around,
            later=() if train else [task.task for task in self._outstanding(record.round, record.phase)],
        )
        if not run.run():
            raise Stopped
        return run, replies, len(counted)

    def _remember(self, update: Update) -> None:
        before = self._answered.get(update.device, ())
        self._answered[update.device] = (*before, update.seconds)[-ANSWERS_REMEMBERED:]

    def _restore_answers(self) -> None:
        """What devices took before a restart, for their own deadlines."""
        journal, done = self._around.journal, len(self._around.journal.rounds())
        for round_ in range(max(done - ANSWERS_REMEMBERED + 1, 1), done + 2):
            for phase in _PHASES:
                record = journal.phase(round_, phase)
                # Those of an open phase are folded in again, and remembered then.
                if record is not None and record.result is not None:
                    for update in journal.updates(round_, phase):
                        self._remember(update)

    def _aggregate(self, record: PhaseRecord, replies: Replies, count: int, message: Any) -> PhaseRecord:
        """The strategy's verdict on a phase: the next model and its metrics.

        Whatever goes wrong in here would go wrong again after a restart: the model then stays as it is.
        """
        stays = msgspec.structs.replace(record, result=record.weights)
        needed = self._config.minimum_updates if record.phase == "train" else 1
        if count < needed or message is None:
            logger.warning("%s of round %d has %d updates", record.phase, record.round, count)
            return msgspec.structs.replace(stays, failure=f"{count} updates of at least {needed}")
        self._seed_noise(record)
        try:
            weights, metrics = replies.conclude(self._strategy, record.round, message)
            if weights is None:
                return msgspec.structs.replace(stays, metrics=metrics)
            data = tensors.encode(tensors.check_like(weights, self._model.template), self._config.codec)
        except Exception as error:
            logger.exception("the strategy failed in round %d: the model stays", record.round)
            self._strategy = self._make_strategy()
            self._restore_strategy()
            return msgspec.structs.replace(stays, failure=f"{type(error).__name__}: {error}")
        blob = self._store.put(data, codec=self._config.codec)
        return msgspec.structs.replace(record, result=blob, metrics=metrics)

    def _seed_noise(self, record: PhaseRecord) -> None:
        """Noise is secret, but the same after a restart: drawing it twice would let its mean be taken."""
        text = f"{self._around.journal.entropy()}/{record.round}/{record.phase}"
        digest = hashlib.sha256(text.encode()).digest()
        np.random.seed(np.frombuffer(digest, np.uint32))
        random.seed(digest)

    # --- what lasts ---------------------------------------------------------------------------------------

    def _read(self, weights: BlobReference) -> Weights:
        # In the template's order: some strategies pair tensors by their place and not by their name.
        return tensors.check_like(tensors.decode(self._store.read(weights)), self._model.template)

    def _make_strategy(self) -> Any:
        chosen = self._config.strategy
        inside = chosen.wrapped
        wrapped = None if inside is None else flower_strategies.make_strategy(inside.name, inside.arguments)
        return flower_strategies.make_strategy(chosen.name, chosen.arguments, wrapped)

    def _strategy_file(self, round_: int) -> Path:
        return self._config.folder / f"strategy-{round_}.safetensors"

    def _save_strategy(self, round_: int) -> None:
        write_durably(self._strategy_file(round_), save_state(self._strategy))
        self._strategy_file(round_ - 2).unlink(missing_ok=True)

    def _restore_strategy(self) -> None:
        """Gives the strategy what it knew after the last training phase that the journal has."""
        done = len(self._around.journal.rounds())
        for round_ in (done + 1, done):
            record = self._around.journal.phase(round_, "train")
            if record is not None and record.result is not None:
                try:
                    restore_state(self._strategy, self._strategy_file(round_).read_bytes())
                except (OSError, SafetensorError) as error:
                    raise StrategyError(
                        f"Expected the strategy's state after round {round_}, received: {error}."
                    ) from error
                return
