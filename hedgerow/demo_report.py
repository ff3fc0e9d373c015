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
from .demo_release import Measured
from .demo_view import shown

if TYPE_CHECKING:
    from .hardware.compilation import Compilation
    from .models.datasets import Dataset, Federation
    from .models.evaluation import Evaluation
    from .models.zoo import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run measured.

    Args:
        out: The folder of everything.
        entry: The model of the zoo.
        federation: Its data.
        before: The centrally trained model.
        after: The refined one.
        per_device_before: A classifier's accuracy on each device's own test samples.
        per_device_after: Likewise.
        per_group_before: A classifier's accuracy on each person's held-out samples, if there are people.
        per_group_after: Likewise.
        losses_before: Each device's loss on its own test samples, as it measured it itself.
        losses_after: Likewise.
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
    losses_before: dict[str, float]
    losses_after: dict[str, float]
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
        measure=_measure(outcome),
        accuracy=_accuracy(before, after),
        not_int8=after.not_int8,
        rounds=tuple(_round(record) for record in outcome.rounds),
        agents=tuple(_agent(agent) for agent in sorted(outcome.agents, key=lambda agent: agent.device)),
        targets=tuple(_target(name, compiled) for name, compiled in after.release.compiled.items()),
        files=reports.Files(
            trainable=outcome.relative(after.release.files["trainable"]),
            int8=outcome.relative(after.release.files["int8"]) if "int8" in after.release.files else None,
            manifest=outcome.relative(after.release.folder / "manifest.json"),
        ),
        labels=federation.test.labels if outcome.entry.classifies else (),
        central_class_counts=_counts(outcome, federation.central),
        preprocessing=federation.preprocessing,
        per_device=_devices(outcome),
        per_group=_groups(outcome),
        confusion=_confusion(before, after),
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


def summary(report: reports.Report) -> RenderableType:
    """The last thing that the demo prints."""
    measure = report.measure
    better = "" if measure.higher_is_better else ", lower is better"
    title = f"{measure.name} on {measure.examples} held-out samples{better}"
    table = Table("", "float", "int8", title=title, title_justify="left", min_width=len(title))
    for name, float32, int8 in (
        ("trained centrally", measure.central_float, measure.central_int8),
        (f"refined on {report.devices} devices", measure.federated_float, measure.federated_int8),
    ):
        table.add_row(name, *(shown(value, percent_of=measure.percent) for value in (float32, int8)))
    lines = [
        f"{target.target}: {target.npu_percent:.0f} % on the NPU, {target.cycles:,} cycles,"
        f" {target.sram_kib:.0f} KiB SRAM"
        for target in report.targets
    ]
    if report.not_int8:
        lines.append(f"{'not compiled' if report.files.int8 else 'no int8 file'}: {report.not_int8}")
    heaviest = max(agent.rss_mib for agent in report.agents)
    lines.append(f"agents: at most {heaviest:.0f} MiB each, on {report.agents[0].runtime}")
    lines.append(f"{report.seconds:.0f} s in all")
    return Group(table, *lines)


def _measure(outcome: Outcome) -> reports.Measure:
    measure, before, after = outcome.entry.measure, outcome.before, outcome.after
    return reports.Measure(
        name=measure.name,
        higher_is_better=measure.higher_is_better,
        percent=measure.percent,
        examples=after.examples,
        central_float=before.float32,
        central_int8=before.int8,
        federated_float=after.float32,
        federated_int8=after.int8,
    )


def _accuracy(before: Measured, after: Measured) -> reports.Accuracy | None:
    if before.float_classes is None or after.float_classes is None:
        return None
    return reports.Accuracy(
        central_float=before.float_classes.accuracy,
        central_int8=_right(before.int8_classes),
        federated_float=after.float_classes.accuracy,
        federated_int8=_right(after.int8_classes),
    )


def _right(classes: Evaluation | None) -> float | None:
    return None if classes is None else classes.accuracy


def _confusion(before: Measured, after: Measured) -> reports.Confusion | None:
    if before.float_classes is None or after.float_classes is None:
        return None
    return reports.Confusion(
        central_float=_rows(before.float_classes),
        central_int8=None if before.int8_classes is None else _rows(before.int8_classes),
        federated_float=_rows(after.float_classes),
        federated_int8=None if after.int8_classes is None else _rows(after.int8_classes),
    )


def _counts(outcome: Outcome, data: Dataset) -> tuple[int, ...]:
    return tuple(map(int, data.counts())) if outcome.entry.classifies else ()


def _devices(outcome: Outcome) -> tuple[reports.Device, ...]:
    return tuple(
        reports.Device(
            device=device.name,
            class_counts=_counts(outcome, device.train),
            train_examples=len(device.train),
            test_examples=len(device.test),
            accuracy_before=outcome.per_device_before.get(device.name),
            accuracy_after=outcome.per_device_after.get(device.name),
            loss_before=outcome.losses_before.get(device.name),
            loss_after=outcome.losses_after.get(device.name),
        )
        for device in outcome.federation.devices
    )


def _groups(outcome: Outcome) -> tuple[reports.Group, ...]:
    groups, central = outcome.federation.test.groups, outcome.federation.central.groups
    if groups is None or not outcome.per_group_before:
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
        int8_bytes=release.files["int8"].stat().st_size if "int8" in release.files else None,
        accuracy_float=_right(measured.float_classes),
        accuracy_int8=_right(measured.int8_classes),
    )


def _rows(evaluation: Evaluation) -> reports.Matrix:
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
    return reports.Round(
        round=record.round,
        devices=record.devices,
        loss=record.held_out_loss,
        accuracy=record.held_out_accuracy,
        seconds=record.seconds,
        bytes_down=record.bytes_down,
        bytes_up=record.bytes_up,
        device_loss=record.device_loss,
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
