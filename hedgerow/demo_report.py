"""What the demo leaves behind for people and programs, made from what it measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from . import report as reports
from .coordinator import events
from .coordinator.records import RoundRecord
from .demo_view import percent

if TYPE_CHECKING:
    from .hardware.compilation import Compilation
    from .models.datasets import Federation
    from .models.evaluation import Evaluation
    from .models.zoo import Entry
    from .quantization import Release


@dataclass(frozen=True, slots=True)
class Measured:
    """A model on the held-out set, as float and as int8."""

    float32: Evaluation
    int8: Evaluation
    release: Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run measured.

    Args:
        out: The folder of everything.
        entry: The model of the zoo.
        federation: Its data.
        before: The centrally trained model.
        after: The refined one.
        per_device_before: Accuracy on each device's own test samples.
        per_device_after: Likewise.
        per_group_before: Accuracy on each person's held-out samples, if there are people.
        per_group_after: Likewise.
        rounds: As the coordinator has them.
        agents: What they last said of themselves.
        stages: Titles and seconds.
        seconds: The whole run.
        seed: Of the run.
        config: What a reader wants to know of the options.
    """

    out: Path
    entry: Entry
    federation: Federation
    before: Measured
    after: Measured
    per_device_before: dict[str, float]
    per_device_after: dict[str, float]
    per_group_before: dict[str, float]
    per_group_after: dict[str, float]
    rounds: tuple[RoundRecord, ...]
    agents: tuple[events.DeviceReport, ...]
    stages: tuple[tuple[str, float], ...]
    seconds: float
    seed: int
    config: dict[str, str | int | float | bool | None]

    def relative(self, path: Path) -> str:
        """A path as it is counted from the report."""
        return str(path.resolve().relative_to(self.out))


def make_report(outcome: Outcome) -> reports.Report:
    """Everything of `report.json`."""
    federation, before, after = outcome.federation, outcome.before, outcome.after
    return reports.Report(
        model=outcome.entry.name,
        title=outcome.entry.title,
        devices=len(federation.devices),
        seed=outcome.seed,
        seconds=outcome.seconds,
        accuracy=reports.Accuracy(
            central_float=before.float32.accuracy,
            central_int8=before.int8.accuracy,
            federated_float=after.float32.accuracy,
            federated_int8=after.int8.accuracy,
        ),
        rounds=tuple(_round(record) for record in outcome.rounds),
        agents=tuple(_agent(agent) for agent in sorted(outcome.agents, key=lambda agent: agent.device)),
        targets=tuple(_target(name, compiled) for name, compiled in after.release.compiled.items()),
        files=reports.Files(
            trainable=outcome.relative(after.release.files["trainable"]),
            int8=outcome.relative(after.release.files["int8"]),
            manifest=outcome.relative(after.release.folder / "manifest.json"),
        ),
        labels=federation.test.labels,
        central_class_counts=tuple(map(int, federation.central.counts())),
        preprocessing=federation.preprocessing,
        per_device=_devices(outcome),
        per_group=_groups(outcome),
        confusion=reports.Confusion(
            central_float=_rows(before.float32),
            central_int8=_rows(before.int8),
            federated_float=_rows(after.float32),
            federated_int8=_rows(after.int8),
        ),
        releases=(_release(outcome, "central", before), _release(outcome, "federated", after)),
        stages=tuple(reports.Stage(stage=title, seconds=seconds) for title, seconds in outcome.stages),
        config=outcome.config,
    )


def write_report(outcome: Outcome, report: reports.Report) -> None:
    """Writes `report.json`, `report.html` and the TensorBoard summaries of the rounds."""
    from .models import summaries

    with summaries.SummaryWriter(outcome.out / "summaries" / "federated") as writer:
        for record in outcome.rounds:
            scalars = {
                "loss": record.held_out_loss,
                "accuracy": record.held_out_accuracy,
                "device_loss": record.device_loss,
                "device_accuracy": record.device_accuracy,
            }
            known = {name: value for name, value in scalars.items() if value is not None}
            writer.scalars(known, step=record.round)
    reports.write(report, outcome.out)


def summary(report: reports.Report, *, examples: int) -> RenderableType:
    """The last thing that the demo prints."""
    accuracy = report.accuracy
    table = Table("", "float", "int8", title=f"accuracy on {examples} held-out samples", title_justify="left")
    table.add_row("trained centrally", percent(accuracy.central_float), percent(accuracy.central_int8))
    refined = f"refined on {report.devices} devices"
    table.add_row(refined, percent(accuracy.federated_float), percent(accuracy.federated_int8))
    lines = [
        f"{target.target}: {target.npu_percent:.0f} % on the NPU, {target.cycles:,} cycles,"
        f" {target.sram_kib:.0f} KiB SRAM"
        for target in report.targets
    ]
    heaviest = max(agent.rss_mib for agent in report.agents)
    lines.append(f"agents: at most {heaviest:.0f} MiB each, on {report.agents[0].runtime}")
    lines.append(f"{report.seconds:.0f} s in all")
    return Group(table, *lines)


def _devices(outcome: Outcome) -> tuple[reports.Device, ...]:
    return tuple(
        reports.Device(
            device=device.name,
            class_counts=tuple(map(int, device.train.counts())),
            test_examples=len(device.test),
            accuracy_before=outcome.per_device_before[device.name],
            accuracy_after=outcome.per_device_after[device.name],
        )
        for device in outcome.federation.devices
    )


def _groups(outcome: Outcome) -> tuple[reports.Group, ...]:
    groups, central = outcome.federation.test.groups, outcome.federation.central.groups
    if groups is None:
        return ()
    trained_on = set() if central is None else set(map(str, central.tolist()))
    return tuple(
        reports.Group(
            group=name,
            central=name in trained_on,
            examples=int((groups.astype(str) == name).sum()),
            accuracy_before=before,
            accuracy_after=outcome.per_group_after[name],
        )
        for name, before in outcome.per_group_before.items()
    )


def _release(outcome: Outcome, stage: str, measured: Measured) -> reports.Release:
    release = measured.release
    return reports.Release(
        name=release.manifest.name,
        version=release.manifest.version,
        stage=stage,
        folder=outcome.relative(release.folder),
        trainable_bytes=release.files["trainable"].stat().st_size,
        int8_bytes=release.files["int8"].stat().st_size,
        accuracy_float=measured.float32.accuracy,
        accuracy_int8=measured.int8.accuracy,
    )


def _rows(evaluation: Evaluation) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in evaluation.confusion)


def _target(name: str, compiled: Compilation) -> reports.Target:
    return reports.Target(
        target=name,
        npu_percent=compiled.accelerated_percent or 0.0,
        cycles=compiled.cycles or 0,
        sram_kib=compiled.activations_kib or 0.0,
        inference_ms=compiled.inference_ms or 0.0,
    )


def _round(record: RoundRecord) -> reports.Round:
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


def _agent(report: events.DeviceReport) -> reports.Agent:
    forbidden = str(report.capabilities.get("modules_forbidden", ""))
    return reports.Agent(
        device=report.device,
        pid=int(report.capabilities.get("pid", 0)),
        rss_mib=float(report.capabilities.get("rss_mib", 0.0)),
        runtime=report.runtime,
        modules_forbidden=tuple(forbidden.split(",")) if forbidden else (),
    )
