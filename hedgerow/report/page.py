"""The report as files: report.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import msgspec

from . import charts
from .record import Report


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with the words below it, as wide as the page or half of it.

    `svg` is markup made here, not escaped.
    """

    title: str
    caption: str
    svg: str
    wide: bool = False


def write(report: Report, folder: Path) -> None:
    """Writes report.json and report.html into an existing folder, each complete or not at all."""
    _replace(folder / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    _replace(folder / "report.html", html(report).encode())


def html(report: Report) -> str:
    """The report as one page with everything in it: no other file, no script, no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hedgerow.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent, points=_points, number=_number, kib=_kib, seconds=_seconds, title_case=_title_case
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        newcomers=_newcomers(report),
        pictures=_accuracy_pictures(report) if report.accuracy else _loss_pictures(report),
        confusions=_confusions(report),
    )


def _newcomers(report: Report) -> tuple[float, float] | None:
    """Accuracy before and after on everybody the central model had never seen; None where nobody is known."""
    new = [group for group in report.per_group if not group.central]
    examples = sum(group.examples for group in new)
    if not examples:
        return None
    before = sum(group.accuracy_before * group.examples for group in new) / examples
    after = sum(group.accuracy_after * group.examples for group in new) / examples
    return before, after


def _accuracy_pictures(report: Report) -> list[Picture]:
    diamonds = "; diamonds are the int8 releases" if report.files.int8 else ""
    devices = ((one.device, one.accuracy_before, one.accuracy_after) for one in report.per_device)
    pictures = [
        Picture(
            "Accuracy per round",
            f"Accuracy on the held-out set after every round{diamonds}.",
            charts.accuracy_per_round(report),
        ),
        Picture(
            "Accuracy per device",
            "On each device's own test examples, which no model was trained on.",
            charts.before_and_after("per-device", _complete(devices)),
        ),
        Picture(
            "Training examples per class and device",
            "An example on a device never leaves it. The deeper the colour, the more.",
            charts.samples_per_class(report),
            wide=charts.is_wide(report.labels),
        ),
    ]
    if report.per_group:
        groups = [
            (f"{one.group} (central)" if one.central else one.group, one.accuracy_before, one.accuracy_after)
            for one in report.per_group
        ]
        pictures.append(
            Picture(
                "Accuracy per person",
                "On everybody's held-out examples; those marked were in the central set with other examples.",
                charts.before_and_after("per-group", groups),
            )
        )
    return pictures


def _loss_pictures(report: Report) -> list[Picture]:
    devices = ((one.device, one.loss_before, one.loss_after) for one in report.per_device)
    return [
        Picture(
            "Loss per round",
            "What training makes smaller, after every round, on examples that no model was trained on.",
            charts.loss_per_round(report),
        ),
        Picture(
            "Loss per device",
            "As each device measured it on its own test examples, before the first round and after the last.",
            charts.before_and_after("per-device", _complete(devices), percent=False),
        ),
        Picture(
            "Training examples per device",
            "An example on a device never leaves it.",
            charts.examples_per_device(report),
        ),
    ]


def _complete(rows: Iterable[tuple[str, float | None, float | None]]) -> list[tuple[str, float, float]]:
    """The rows that have both numbers."""
    return [(name, before, after) for name, before, after in rows if before is not None and after is not None]


def _confusions(report: Report) -> list[Picture]:
    if report.confusion is None:
        return []
    pictures = []
    for form in ("float", "int8"):
        for stage, words in (("central", "before the rounds"), ("federated", "after the rounds")):
            matrix = getattr(report.confusion, f"{stage}_{form}")
            if matrix is not None:
                pictures.append(
                    Picture(
                        f"{form}, {words}",
                        f"{_percent(getattr(report.accuracy, f'{stage}_{form}'))} right.",
                        charts.confusion(f"confusion-{stage}-{form}", matrix, report.labels),
                        wide=charts.is_wide(report.labels),
                    )
                )
    return pictures


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _title_case(name: str) -> str:
    return name[:1].upper() + name[1:]


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:,.1f} KiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _replace(path: Path, content: bytes) -> None:
    """Writes a file beside its place and moves it there, so that nobody meets half a file."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)
