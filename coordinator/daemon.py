"""The coordinator: opens what the rounds need, runs them, and can be killed at any moment."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import BlobError, CoordinatorConfigError, NoUpdateError, TensorsError
from ..hardware import interpreter
from ..protocol import tensors
from ..protocol.blobs import BlobStore, write_durably
from ..protocol.messages import BlobReference
from ..protocol.tensors import Weights
from . import flower
from .config import CoordinatorConfig
from .evaluation import HeldOutEvaluation
from .events import DeviceReport, Event, Finished, Listener, Started
from .folder_lock import locked
from .intake import Intake
from .journal import Journal
from .phase import Surroundings
from .policy import MakePolicy, TargetOrDeadline
from .round_loop import Model, RoundLoop, Stopped
from .status import StatusFile
from .summaries import RoundSummaries
from .wire import open_exchange

FAREWELL_SECONDS = 5.0
logger = logging.getLogger(__name__)


class Coordinator:
    """Runs the rounds of one configuration to their end; a context manager.

    Args:
        config: What to run.
        listener: Told what happens, on this thread.
        stopping: Says whether to stop; asked several times a second.
        policy: When a training phase closes, and what late updates are worth.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        *,
        listener: Listener,
        stopping: Callable[[], bool],
        policy: MakePolicy = TargetOrDeadline,
    ) -> None:
        self._config = config
        self._policy = policy
        self._listener = listener
        self._stopping = stopping
        self._stack = contextlib.ExitStack()
        self._listeners: list[Listener] = []

    def __enter__(self) -> Self:
        """Opens everything.

        Raises:
            CoordinatorConfigError: The model, the test data or the port cannot be used, or the folder is
                another model's.
            CoordinatorConflictError: Another coordinator serves the fleet, or uses the folder.
            StrategyError: There is no such strategy.
            BrokerError: The broker is not there, at the very first start.
        """
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, stack: contextlib.ExitStack) -> None:
        config = self._config
        flower.quiet()
        stack.enter_context(locked(config.folder))
        trainable = config.trainable
        program = _load_program(trainable)
        stack.callback(program.close)
        self._journal = Journal(config.folder)
        stack.callback(self._journal.close)
        self._store = BlobStore(config.folder / "blobs")
        evaluate: Callable[[Weights], dict[str, float]] = lambda weights: {}  # noqa: E731
        if config.test_data is not None:
            evaluate = HeldOutEvaluation(program, config.test_data).evaluate
        self._model = Model(
            program=self._store.put(trainable.read_bytes()),
            template=program.run("get_weights", {}),
            evaluation_metrics=_evaluation_metrics(program),
        )
        self._check_folder()
        self._exchange = open_exchange(
            stack, config.broker, config.fleet, journal=self._journal, store=self._store
        )
        self._listen()
        around = Surroundings(
            exchange=self._exchange,
            journal=self._journal,
            intake=Intake(config.folder / "updates"),
            listener=self._tell,
            stopping=self._stopping,
        )
        self._loop = RoundLoop(
            config, self._model, store=self._store, around=around, evaluate=evaluate, policy=self._policy
        )

    def _check_folder(self) -> None:
        """Passes if the folder is new, or was begun with a model of the same tensors."""
        done = self._journal.rounds()
        known = done[-1].weights.sha256 if done else self._journal.fact("initial_weights")
        if known is None or not self._store.path(known).exists():
            return
        try:
            first = tensors.decode(self._store.path(known).read_bytes())
            tensors.check_like(first, self._model.template)
        except TensorsError as error:
            raise CoordinatorConfigError(
                f"Expected the model that {self._config.folder} was begun with, received another one:"
                f" {error.args[0]}",
                remedy="Give each model a folder of its own.",
            ) from error

    def _listen(self) -> None:
        """Who is told what happens, beside the caller."""
        folder = self._config.folder
        self._listeners = [
            self._listener,
            RoundSummaries(folder / "summaries"),
            StatusFile(folder, lambda: self._exchange.roster.states.values()),
        ]
        if self._config.metrics_port:
            from .metrics import Metrics

            metrics = Metrics()
            try:
                metrics.serve(self._config.metrics_port)
            except OSError as error:
                raise CoordinatorConfigError(
                    f"Expected a free metrics_port, received {self._config.metrics_port}: {error}."
                ) from error
            self._listeners.append(metrics)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def run(self) -> Path:
        """Runs all rounds.

        Returns:
            The final model's weights, a safetensors file.

        Raises:
            Stopped: `stopping` said so; the next start goes on here.
            NoUpdateError: No device's update was ever aggregated.
        """
        done = self._journal.rounds()
        weights = done[-1].weights if done else self._first_model()
        first = done[-1].round + 1 if done else 1
        self._tell(Started(epoch=self._exchange.epoch, round=first, rounds=self._config.rounds))
        for round_ in range(first, self._config.rounds + 1):
            weights = self._loop.round(round_, weights)
        if not any(record.devices for record in self._journal.rounds()):
            raise NoUpdateError(f"Expected updates in {self._config.rounds} rounds, received none.")
        self._clear_broker()
        final = self._config.folder / "final.safetensors"
        write_durably(final, tensors.encode(tensors.decode(self._store.read(weights))))
        self._tell(Finished(weights=str(final), devices=self._reports()))
        return final

    def _first_model(self) -> BlobReference:
        """The model of round 0, the same one in every start."""
        codec, known = self._config.codec, self._journal.fact("initial_weights")
        if known is None:
            blob = self._store.put(tensors.encode(self._model.template, codec), codec=codec)
            self._journal.set_fact("initial_weights", blob.sha256)
            return blob
        path = self._store.path(known)
        if not path.exists():
            raise BlobError(f"Expected the first model {known} in {self._config.folder}, received nothing.")
        return self._store.put(path.read_bytes(), codec=codec)

    def _clear_broker(self) -> None:
        """Leaves no chunk behind, and hears what is still on its way."""
        self._exchange.downlink.withdraw_all_but()
        until = time.monotonic() + FAREWELL_SECONDS
        while not self._exchange.downlink.idle and time.monotonic() < until:
            self._exchange.next(0.05)
        self._exchange.next(0.5)

    def _reports(self) -> tuple[DeviceReport, ...]:
        """What every device last said of itself."""
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


def _load_program(model: Path) -> interpreter.Interpreter:
    program = interpreter.load(model)
    needed = {"get_weights", "set_weights", "train", "evaluate"}
    if not needed <= program.signatures().keys():
        found = ", ".join(sorted(program.signatures())) or "none"
        program.close()
        raise CoordinatorConfigError(
            f"Expected a trainable file with the signatures {', '.join(sorted(needed))},"
            f" received {model} with {found}."
        )
    return program


def _evaluation_metrics(program: interpreter.Interpreter) -> frozenset[str]:
    """The averages that a device can give: every sum of the program's `evaluate`, by its weight."""
    sums = {
        name.removesuffix("_sum")
        for name in program.signatures()["evaluate"].outputs
        if name.endswith("_sum")
    }
    return frozenset(sums - {"weight"})


__all__ = ["Coordinator", "Stopped"]
