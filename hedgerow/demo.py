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
from rich.table import Table

from .coordinator import events
from .coordinator.config import CoordinatorConfig, StrategyConfig
from .coordinator.journal import RoundRecord
from .demo_fleet import broker, clear_retained, follow_coordinator, new_fleet, start_agents, write_samples
from .demo_view import DemoView, percent
from .errors import OutputFolderError, UsageError
from .processes import Interruption, Processes
from .protocol import tensors
from .protocol.manifest import Preprocessing

if TYPE_CHECKING:
    import keras

    from .hardware.vela import VelaReport
    from .models.datasets import Federation
    from .models.evaluation import Evaluation
    from .models.zoo import Entry
    from .quantization import Release, Score
    from .report import Report

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
class Measured:
    """A model on the held-out set, as float and as int8."""

    float32: Evaluation
    int8: Evaluation
    release: Release


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
    with Interruption() as interruption, _clean_folder(options.out) as out, DemoView(console) as view:
        demo = _Demo(options, out, view, interruption)
        demo.run()
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
        # Whatever went wrong, the logs say why.
        raise
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            folder.rmdir()
        raise


class _Demo:
    """One run."""

    def __init__(self, options: DemoOptions, out: Path, view: DemoView, interruption: Interruption) -> None:
        from .models import zoo

        self.options = options
        self.out = out
        self.view = view
        self.interruption = interruption
        self.entry: Entry = zoo.get(options.model)
        self.federation: Federation = self.entry.federate(
            devices=options.devices, alpha=options.alpha, seed=options.seed
        )
        self.stages: list[tuple[str, float]] = []
        self.started = time.monotonic()

    def run(self) -> None:
        """All stages, in order."""
        from .quantization import Converter

        with Processes(self.out / "logs", self.interruption) as processes, Converter() as converter:
            with broker(processes, url=self.options.broker, port=self.options.port) as url:
                converter.start()
                model = self._train_centrally()
                before = self._release("1.0.0", model, converter)
                per_device_before = self._per_device(model)
                refined = self._refine(processes, url, before)
            _set_weights(model, refined.weights)
            after = self._release("1.1.0", model, converter)
        report = self._report(before, after, refined, per_device_before, self._per_device(model))
        self._write(report, refined)
        self._show(report)

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
            strategy=StrategyConfig(name=options.strategy),
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

    # --- what it leaves -----------------------------------------------------------------------------------

    def _report(
        self,
        before: Measured,
        after: Measured,
        refined: Refined,
        device_before: dict[str, float],
        device_after: dict[str, float],
    ) -> Report:
        from . import report as reports

        federation = self.federation
        return reports.Report(
            model=self.entry.name,
            title=self.entry.title,
            devices=len(federation.devices),
            seed=self.options.seed,
            seconds=time.monotonic() - self.started,
            accuracy=reports.Accuracy(
                central_float=before.float32.accuracy,
                central_int8=before.int8.accuracy,
                federated_float=after.float32.accuracy,
                federated_int8=after.int8.accuracy,
            ),
            rounds=tuple(_round(record) for record in refined.rounds),
            agents=tuple(_agent(report) for report in sorted(refined.agents, key=lambda agent: agent.device)),
            targets=tuple(_target(name, compiled) for name, compiled in after.release.compiled.items()),
            files=reports.Files(
                trainable=self._relative(after.release.files["trainable"]),
                int8=self._relative(after.release.files["int8"]),
                manifest=self._relative(after.release.folder / "manifest.json"),
            ),
            labels=federation.test.labels,
            central_class_counts=tuple(map(int, federation.central.counts())),
            preprocessing=federation.preprocessing,
            per_device=tuple(
                reports.Device(
                    device=device.name,
                    class_counts=tuple(map(int, device.train.counts())),
                    test_examples=len(device.test),
                    accuracy_before=device_before[device.name],
                    accuracy_after=device_after[device.name],
                )
                for device in federation.devices
            ),
            confusion=reports.Confusion(
                central_float=_rows(before.float32),
                central_int8=_rows(before.int8),
                federated_float=_rows(after.float32),
                federated_int8=_rows(after.int8),
            ),
            releases=(self._report_release("central", before), self._report_release("federated", after)),
            stages=tuple(reports.Stage(stage=title, seconds=seconds) for title, seconds in self.stages),
            config={
                "strategy": self.options.strategy,
                "epochs": self.options.epochs or self.entry.federated.local_epochs,
                "learning rate": self.entry.federated.learning_rate,
                "batch size": self.entry.federated.batch_size,
                "broker": self.options.broker or "embedded",
            },
        )

    def _report_release(self, stage: str, measured: Measured) -> Any:
        from . import report as reports

        release = measured.release
        return reports.Release(
            name=release.manifest.name,
            version=release.manifest.version,
            stage=stage,
            folder=self._relative(release.folder),
            trainable_bytes=release.files["trainable"].stat().st_size,
            int8_bytes=release.files["int8"].stat().st_size,
            accuracy_float=measured.float32.accuracy,
            accuracy_int8=measured.int8.accuracy,
        )

    def _relative(self, path: Path) -> str:
        return str(path.resolve().relative_to(self.out))

    def _write(self, report: Report, refined: Refined) -> None:
        from . import report as reports
        from .models import summaries

        with summaries.SummaryWriter(self.out / "summaries" / "federated") as writer:
            for record in refined.rounds:
                scalars = {
                    "loss": record.held_out_loss,
                    "accuracy": record.held_out_accuracy,
                    "device_loss": record.device_loss,
                    "device_accuracy": record.device_accuracy,
                }
                writer.scalars(
                    {name: value for name, value in scalars.items() if value is not None}, step=record.round
                )
        reports.write(report, self.out)

    def _show(self, report: Report) -> None:
        accuracy, target = report.accuracy, report.targets[0]
        table = Table("", "float", "int8", title=f"accuracy on {len(self.federation.test)} held-out samples")
        table.add_row("trained centrally", percent(accuracy.central_float), percent(accuracy.central_int8))
        table.add_row(
            f"refined on {report.devices} devices",
            percent(accuracy.federated_float),
            percent(accuracy.federated_int8),
        )
        heaviest = max(agent.rss_mib for agent in report.agents)
        console = self.view.console
        console.print(table)
        console.print(
            f"{target.target}: {target.npu_percent:.0f} % on the NPU, {target.cycles:,} cycles,"
            f" {target.sram_kib:.0f} KiB SRAM\nagents: at most {heaviest:.0f} MiB each, on"
            f" {report.agents[0].runtime}\n{report.seconds:.0f} s in all",
            highlight=False,
        )
        console.print(f"report: {self.options.out / 'report.html'}", highlight=False)


def _set_weights(model: keras.Model, path: Path) -> None:
    weights = tensors.decode(path.read_bytes())
    for variable in model.weights:
        variable.assign(weights[variable.path])


def _rows(evaluation: Evaluation) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in evaluation.confusion)


def _evaluation(score: Score) -> Evaluation:
    from .models.evaluation import Evaluation

    assert score.confusion is not None
    return Evaluation(score.confusion)


def _target(name: str, compiled: VelaReport) -> Any:
    from . import report as reports

    return reports.Target(
        target=name,
        npu_percent=compiled.npu_percent,
        cycles=compiled.cycles,
        sram_kib=compiled.sram_kib,
        inference_ms=compiled.inference_ms,
    )


def _round(record: RoundRecord) -> Any:
    from . import report as reports

    assert record.held_out_loss is not None
    assert record.held_out_accuracy is not None
    return reports.Round(
        round=record.round,
        devices=record.devices,
        loss=record.held_out_loss,
        accuracy=record.held_out_accuracy,
        seconds=record.seconds,
        bytes_down=record.bytes_down,
        bytes_up=record.bytes_up,
        device_accuracy=record.device_accuracy,
    )


def _agent(report: events.DeviceReport) -> Any:
    from . import report as reports

    forbidden = str(report.capabilities.get("modules_forbidden", ""))
    return reports.Agent(
        device=report.device,
        pid=int(report.capabilities.get("pid", 0)),
        rss_mib=float(report.capabilities.get("rss_mib", 0.0)),
        runtime=report.runtime,
        modules_forbidden=tuple(forbidden.split(",")) if forbidden else (),
    )
