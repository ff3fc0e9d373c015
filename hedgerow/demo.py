"""The whole way of a model on one machine: central training, release, federated rounds, a better release."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .coordinator.config import CoordinatorConfig, StrategyConfig
from .demo_fleet import (
    check_broker,
    clear_retained,
    follow_coordinator,
    new_fleet,
    start_agents,
    start_broker,
    write_samples,
)
from .demo_release import Measured, ReleaseMaker
from .demo_report import Outcome, make_report, summary, write_report
from .demo_rounds import Refined
from .demo_view import DemoView, percent, shown
from .errors import OutputFolderError, UsageError
from .onednn import use_onednn
from .processes import Interruption, Processes
from .protocol import tensors
from .protocol.messages import Scalar
from .quiet import native_log

if TYPE_CHECKING:
    import keras

    from .models.datasets import Federation
    from .models.zoo import Entry
    from .quantization import Converter, Release

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
    use_onednn()
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
        self.entry: Entry = zoo.get(options.model)
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
            releases = self._release_maker(converter)
            before = self._release("1.0.0", model, releases)
            per_device_before, per_group_before = self._per_device(model), self._per_group(model)
            refined = self._refine(processes, url, before)
            assert refined.weights is not None
            _set_weights(model, refined.weights)
            after = self._release("1.1.0", model, releases)

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
            losses_before=refined.losses_before,
            losses_after=refined.losses_after,
            rounds=refined.rounds,
            agents=refined.agents,
            stages=tuple(self.stages),
            seconds=time.monotonic() - self.started,
            seed=self.options.seed,
            config=self._shown_config(),
        )
        report = make_report(outcome)
        write_report(outcome, report)
        self.view.console.print(summary(report), highlight=False)
        self.view.console.print(f"report: {self.options.out / 'report.html'}", highlight=False)

    @contextmanager
    def _stage(self, title: str) -> Iterator[Any]:
        started = time.monotonic()
        with self.view.stage(title) as stage:
            yield stage
        self.stages.append((title, time.monotonic() - started))

    # --- the model's way ----------------------------------------------------------------------------------

    def _train_centrally(self) -> keras.Model:
        from .models import augmentation, evaluation, summaries, training

        central, test, classifies = self.federation.central, self.federation.test, self.entry.classifies
        with (
            self._stage(f"trained centrally on {len(central)} samples") as stage,
            summaries.SummaryWriter(self.out / "summaries" / "central") as writer,
        ):
            model = self.entry.create(self.options.seed)
            if self.entry.pretrain:
                self.entry.pretrain(model, self.federation, self.options.seed)

            def write(epoch: training.EpochResult) -> None:
                accuracy = {"accuracy": epoch.accuracy} if classifies else {}
                writer.scalars({"loss": epoch.loss} | accuracy, step=epoch.epoch)

            trained = training.train_centrally(
                model,
                central,
                epochs=self.entry.central.epochs,
                batch_size=self.entry.central.batch_size,
                learning_rate=self.entry.central.learning_rate,
                seed=self.options.seed,
                loss=self.entry.loss,
                augment=augmentation.for_shape(central.x.shape[1:])
                if self.entry.central.augments_central
                else None,
                on_epoch=write,
            )
            if classifies:
                accuracy = evaluation.evaluate(model.predict(test.x, verbose=0), test.y).accuracy
                stage.result = f"{percent(accuracy)} of {len(test)} held-out samples"
            else:
                stage.result = f"loss {trained.epochs[-1].loss:.3f}"
        return model

    def _release_maker(self, converter: Converter) -> ReleaseMaker:
        return ReleaseMaker(
            folder=self.out / "releases",
            entry=self.entry,
            federation=self.federation,
            converter=converter,
            proximal=self.options.strategy.lower() == "fedprox",
        )

    def _release(self, version: str, model: keras.Model, releases: ReleaseMaker) -> Measured:
        measure = self.entry.measure
        with self._stage(f"released {self.entry.name} {version}") as stage:
            made = releases.make(version, model)
            values = f"float {shown(made.float32, percent_of=measure.percent)}"
            if made.int8 is not None:
                values += f", int8 {shown(made.int8, percent_of=measure.percent)}"
            stage.result = values if measure.name == "accuracy" else f"{measure.name}: {values}"
        return made

    def _refine(self, processes: Processes, url: str, central: Measured) -> Refined:
        """The federated rounds, with one process per device."""
        devices, fleet = self.federation.devices, new_fleet()
        refined = Refined()
        with self._stage(f"refined on {len(devices)} devices with {self.options.strategy}") as stage:
            start_agents(
                processes,
                devices,
                folder=self.out / "devices",
                fleet=fleet,
                url=url,
                runtime=self.options.runtime,
            )
            config = self._coordinator_config(fleet, url, central.release)
            for event in follow_coordinator(processes, config, self.out / "hedgerow.toml"):
                self.view.show(event, classifies=self.entry.classifies)
                refined = refined.then(event)
            processes.stop("coordinator", *(device.name for device in devices))
            clear_retained(url, fleet, tuple(device.name for device in devices))
            stage.result = refined.in_words(classifies=self.entry.classifies)
        return refined

    def _coordinator_config(self, fleet: str, url: str, release: Release) -> CoordinatorConfig:
        options, federated = self.options, self.entry.federated
        test_data = self.out / "coordinator" / "test.npz" if self._held_out_has_answers() else None
        if test_data is not None:
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

    def _held_out_has_answers(self) -> bool:
        """Whether the held-out set has what training takes as answers; flags of what is unusual are none."""
        mine, trained_on = self.federation.test.y, self.federation.central.y
        return mine.shape[1:] == trained_on.shape[1:] and mine.dtype == trained_on.dtype

    def _per_device(self, model: keras.Model) -> dict[str, float]:
        """A classifier's accuracy on each device's own test samples."""
        from .models import evaluation

        if not self.entry.classifies:
            return {}
        return {
            device.name: evaluation.evaluate(model.predict(device.test.x, verbose=0), device.test.y).accuracy
            for device in self.federation.devices
        }

    def _per_group(self, model: keras.Model) -> dict[str, float]:
        """A classifier's accuracy on each person's held-out samples; empty where the data name no people."""
        from .models import evaluation

        test = self.federation.test
        if test.groups is None or not self.entry.classifies:
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


def _set_weights(model: keras.Model, path: Path) -> None:
    weights = tensors.decode(path.read_bytes())
    for variable in model.weights:
        variable.assign(weights[variable.path])
