"""The whole way of a model on one machine: central training, release, federated rounds, a better release."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .coordinator import events
from .coordinator.config import CoordinatorConfig, StrategyConfig
from .coordinator.records import RoundRecord
from .demo_fleet import (
    check_broker,
    clear_retained,
    follow_coordinator,
    new_fleet,
    start_agents,
    start_broker,
    write_samples,
)
from .demo_report import Measured, Outcome, make_report, summary, write_report
from .demo_view import DemoView, percent
from .errors import OutputFolderError, UsageError
from .processes import Interruption, Processes
from .protocol import tensors
from .protocol.manifest import Preprocessing
from .protocol.messages import Scalar
from .quiet import native_log

if TYPE_CHECKING:
    import keras

    from .models.datasets import Federation
    from .models.evaluation import Evaluation
    from .models.zoo import Entry
    from .quantization import Release, Score

TARGET = "ethos-u55-128"
RUNTIMES = ("auto", "tflite", "litert")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the user asks for; None where the model's own number holds.

    Args:
        model: Of the zoo.
        devices: How many agents.
        rounds: Federated rounds.
        epochs: On the device in each round.
        strategy: A class of `flwr.serverapp.strategy`.
        alpha: Dirichlet concentration of the split.
        seed: Of the split, the first weights and the sampling.
        out: An empty or new folder.
        broker: `mqtt://` address; None for the embedded one.
        port: Of the embedded broker; None for a free one.
        runtime: Of the agents.
        round_seconds: A phase of a round closes after so long.
    """

    model: str = "digits-convnet"
    devices: int | None = None
    rounds: int | None = None
    epochs: int | None = None
    strategy: str = "FedAvg"
    alpha: float | None = None
    seed: int = 0
    out: Path = Path("hedgerow-demo")
    broker: str | None = None
    port: int | None = None
    runtime: str = "auto"
    round_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise UsageError(
                f"Expected --runtime to be one of {', '.join(RUNTIMES)}, received {self.runtime!r}."
            )


@dataclass(frozen=True, slots=True)
class Refined:
    """What the federated rounds gave."""

    weights: Path
    rounds: tuple[RoundRecord, ...]
    agents: tuple[events.DeviceReport, ...]


def run_demo(options: DemoOptions, *, console: Console) -> bytes:
    """Runs the demo and leaves everything in `options.out`.

    Args:
        options: What the user asks for.
        console: Where progress is shown.

    Returns:
        `report.json`.

    Raises:
        HedgerowError: It cannot be run as asked, or a process of it failed.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; nothing is left behind.
    """
    check_broker(url=options.broker, port=options.port)
    with Interruption() as interruption, _clean_folder(options.out) as out:
        logs = out / "logs"
        logs.mkdir()
        with native_log(logs / "demo.log"), DemoView(console) as view:
            _Demo(options, out, view, interruption).run()
        return (out / "report.json").read_bytes()


@contextmanager
def _clean_folder(folder: Path) -> Iterator[Path]:
    """The folder, empty at first; after an interruption, as it was before."""
    existed = folder.exists()
    try:
        if existed and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputFolderError(f"Expected an empty or new folder, received {folder}.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFolderError(f"Expected a folder that can be made, received {folder}: {error}.") from error
    folder = folder.resolve()
    try:
        yield folder
    except Exception:
        # What went wrong is in the logs, unless it was refused before anything was made.
        made = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        if made <= {"logs", "logs/demo.log"}:
            shutil.rmtree(folder / "logs", ignore_errors=True)
            _remove_if_empty(*([] if existed else [folder]))
        raise
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _remove_if_empty(*([] if existed else [folder]))
        raise


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class _Demo:
    """One run."""

    def __init__(self, options: DemoOptions, out: Path, view: DemoView, interruption: Interruption) -> None:
        from .coordinator.flower_strategies import make_strategy
        from .models import zoo

        self.options = options
        self.out = out
        self.view = view
        self.interruption = interruption
        self.entry: Entry = _classifier(zoo.get(options.model))
        self.strategy = StrategyConfig(name=options.strategy, arguments=self._strategy_arguments())
        make_strategy(self.strategy.name, self.strategy.arguments)
        self.federation: Federation = self.entry.federate(
            devices=options.devices, alpha=options.alpha, seed=options.seed
        )
        self.stages: list[tuple[str, float]] = []
        self.started = time.monotonic()

    def run(self) -> None:
        """All stages, in order."""
        from .quantization import Converter

        with Processes(self.out / "logs", self.interruption) as processes, Converter() as converter:
            url = start_broker(processes, url=self.options.broker, port=self.options.port)
            converter.start()
            model = self._train_centrally()
            before = self._release("1.0.0", model, converter)
            per_device_before, per_group_before = self._per_device(model), self._per_group(model)
            refined = self._refine(processes, url, before)
            _set_weights(model, refined.weights)
            after = self._release("1.1.0", model, converter)

        outcome = Outcome(
            out=self.out,
            entry=self.entry,
            federation=self.federation,
            before=before,
            after=after,
            per_device_before=per_device_before,
            per_device_after=self._per_device(model),
            per_group_before=per_group_before,
            per_group_after=self._per_group(model),
            rounds=refined.rounds,
            agents=refined.agents,
            stages=tuple(self.stages),
            seconds=time.monotonic() - self.started,
            seed=self.options.seed,
            config=self._shown_config(),
        )
        report = make_report(outcome)
        write_report(outcome, report)
        self.view.console.print(summary(report, examples=len(self.federation.test)), highlight=False)
        self.view.console.print(f"report: {self.options.out / 'report.html'}", highlight=False)

    @contextmanager
    def _stage(self, title: str) -> Iterator[Any]:
        started = time.monotonic()
        with self.view.stage(title) as stage:
            yield stage
        self.stages.append((title, time.monotonic() - started))

    # --- the model's way ----------------------------------------------------------------------------------

    def _train_centrally(self) -> keras.Model:
        from .models import evaluation, summaries, training

        central, test = self.federation.central, self.federation.test
        with (
            self._stage(f"trained centrally on {len(central)} samples") as stage,
            summaries.SummaryWriter(self.out / "summaries" / "central") as writer,
        ):
            model = self.entry.create(self.options.seed)
            if self.entry.pretrain:
                self.entry.pretrain(model, self.federation, self.options.seed)
            training.train_centrally(
                model,
                central,
                epochs=self.entry.central.epochs,
                batch_size=self.entry.central.batch_size,
                learning_rate=self.entry.central.learning_rate,
                seed=self.options.seed,
                on_epoch=lambda epoch: writer.scalars(
                    {"loss": epoch.loss, "accuracy": epoch.accuracy}, step=epoch.epoch
                ),
            )
            accuracy = evaluation.evaluate(model.predict(test.x, verbose=0), test.y).accuracy
            stage.result = f"{percent(accuracy)} of {len(test)} held-out samples"
        return model

    def _release(self, version: str, model: keras.Model, converter: Any) -> Measured:
        from .models import export_trainable
        from .quantization import build_release

        name, test = self.entry.name, self.federation.test
        with (
            self._stage(f"released {name} {version}") as stage,
            tempfile.TemporaryDirectory(prefix="hedgerow-") as folder,
        ):
            trainable = Path(folder) / "model.train.tflite"
            export_trainable(
                model,
                trainable,
                batch_size=self.entry.federated.batch_size,
                loss=self.entry.loss,
                optimizer=self.entry.federated.optimizer,
                proximal=self.options.strategy.lower() == "fedprox",
            )
            release = build_release(
                self.out / "releases",
                name=name,
                version=version,
                model=model,
                trainable=trainable,
                calibration=self.federation.calibration.x,
                test=(test.x, test.y),
                labels=test.labels,
                preprocessing=Preprocessing(description=self.federation.preprocessing),
                targets=(TARGET,),
                converter=converter,
            )
            comparison = release.comparison
            assert comparison is not None
            float32, int8 = _evaluation(comparison.reference), _evaluation(comparison.files["int8"])
            stage.result = f"float {percent(float32.accuracy)}, int8 {percent(int8.accuracy)}"
        return Measured(float32=float32, int8=int8, release=release)

    def _refine(self, processes: Processes, url: str, before: Measured) -> Refined:
        """The federated rounds, with one process per device."""
        devices, fleet = self.federation.devices, new_fleet()
        rounds: list[RoundRecord] = []
        agents: tuple[events.DeviceReport, ...] = ()
        weights: Path | None = None
        with self._stage(f"refined on {len(devices)} devices with {self.options.strategy}") as stage:
            start_agents(
                processes,
                devices,
                folder=self.out / "devices",
                fleet=fleet,
                url=url,
                runtime=self.options.runtime,
            )
            config = self._coordinator_config(fleet, url, before.release)
            for event in follow_coordinator(processes, config, self.out / "hedgerow.toml"):
                self.view.show(event)
                match event:
                    case events.RoundEnded(record=record):
                        rounds.append(record)
                    case events.Finished(weights=path, devices=reports):
                        weights, agents = Path(path), reports
            assert weights is not None
            processes.stop("coordinator", *(device.name for device in devices))
            clear_retained(url, fleet, tuple(device.name for device in devices))
            stage.result = f"{len(rounds)} rounds, held-out {percent(rounds[-1].held_out_accuracy)}"
        return Refined(weights=weights, rounds=tuple(rounds), agents=agents)

    def _coordinator_config(self, fleet: str, url: str, release: Release) -> CoordinatorConfig:
        options, federated = self.options, self.entry.federated
        test_data = self.out / "coordinator" / "test.npz"
        write_samples(test_data, self.federation.test)
        return CoordinatorConfig(
            broker=url,
            fleet=fleet,
            model=release.files["trainable"],
            folder=self.out / "coordinator",
            rounds=options.rounds or federated.rounds,
            round_seconds=options.round_seconds,
            start_devices=len(self.federation.devices),
            minimum_devices=1,
            seed=options.seed,
            test_data=test_data,
            strategy=self.strategy,
            train={
                "epochs": options.epochs or federated.local_epochs,
                "learning-rate": federated.learning_rate,
                "seed": options.seed,
            },
        )

    def _per_device(self, model: keras.Model) -> dict[str, float]:
        """The model's accuracy on each device's own test samples."""
        from .models import evaluation

        return {
            device.name: evaluation.evaluate(model.predict(device.test.x, verbose=0), device.test.y).accuracy
            for device in self.federation.devices
        }

    def _per_group(self, model: keras.Model) -> dict[str, float]:
        """The model's accuracy on each person's held-out samples; empty where the data name no people."""
        from .models import evaluation

        test = self.federation.test
        if test.groups is None:
            return {}
        right = {}
        for group in sorted(set(test.groups.tolist())):
            part = test.take((test.groups == group).nonzero()[0])
            right[str(group)] = evaluation.evaluate(model.predict(part.x, verbose=0), part.y).accuracy
        return right

    def _strategy_arguments(self) -> dict[str, Scalar]:
        """What Flower's strategies need on models of this size; its own values are those of large ones."""
        match self.options.strategy.lower():
            case "fedprox":
                return {"proximal_mu": 0.01}
            case "fedadam" | "fedyogi" | "fedadagrad":
                return {"eta": 0.01}
            case "qfedavg":
                return {"client_learning_rate": self.entry.federated.learning_rate}
            case _:
                return {}

    def _shown_config(self) -> dict[str, str | int | float | bool | None]:
        federated = self.entry.federated
        return {
            "strategy": self.options.strategy,
            "epochs": self.options.epochs or federated.local_epochs,
            "learning rate": federated.learning_rate,
            "batch size": federated.batch_size,
            "broker": self.options.broker or "embedded",
        }


def _classifier(entry: Entry) -> Entry:
    """The entry, if the demo can show it: it reports accuracies and compiles an int8 file.

    Raises:
        UsageError: The model answers with something else than one class, or has no int8 file.
    """
    classifies = entry.loss == "sparse_categorical_crossentropy" and entry.measure.name in (
        "accuracy",
        "ROC AUC",
    )
    if not classifies or entry.not_int8:
        reason = entry.not_int8 or f"{entry.name} is measured by its {entry.measure.name}"
        raise UsageError(
            f"Expected --model to be a classifier with an int8 file, received {entry.name}: {reason}.",
            remedy=f"Use `hedgerow zoo verify {entry.name}`, which takes it the whole way without a broker.",
        )
    return entry


def _set_weights(model: keras.Model, path: Path) -> None:
    weights = tensors.decode(path.read_bytes())
    for variable in model.weights:
        variable.assign(weights[variable.path])


def _evaluation(score: Score) -> Evaluation:
    from .models.evaluation import Evaluation

    assert score.confusion is not None
    return Evaluation(score.confusion)
