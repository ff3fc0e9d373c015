"""What a conversion came to, as `report.json` and `report.html`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from .errors import DiskError
from .hardware.benchmark import Benchmark
from .hardware.fitness import Fitness
from .hardware.verification import Verification
from .quantization import OperatorCost, Rung, release_folder


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """What report.json says about one target.

    Attributes:
        target: Its name.
        file: The file for it.
        recipe: The recipe that the gate chose.
        runs_as_asked: Whether every operator is where it should be, and the memory suffices.
        accelerated_percent: Share of the operators where they should be.
        cpu_operators: What an accelerator leaves to the CPU beside it.
        weights_kib: What the weights take.
        activations_kib: What the tensors of one inference take.
        cycles: The compiler's estimate; None without one.
        advice: What to change if it does not run as asked.
    """

    target: str
    file: str
    recipe: str
    runs_as_asked: bool
    accelerated_percent: float
    cpu_operators: tuple[str, ...]
    weights_kib: float
    activations_kib: float
    cycles: int | None
    advice: str


class ConversionReport(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json` of a conversion.

    Attributes:
        name: Of the release.
        version: Of the release.
        folder: Where it is.
        rungs: What was tried, with its accuracy, in the order of the trying.
        targets: What each target makes of its file.
        verifications: Each file on each runtime against the reference kernels.
        benchmarks: Each file's latency on each runtime of this machine.
        layers: What int8 in each operator alone costs, the costliest first.
        operators: For each target and operator, how often it runs in each place.
    """

    name: str
    version: str
    folder: str
    rungs: tuple[Rung, ...]
    targets: tuple[TargetReport, ...]
    verifications: dict[str, tuple[Verification, ...]]
    benchmarks: tuple[Benchmark, ...]
    layers: tuple[OperatorCost, ...]
    operators: dict[str, dict[str, dict[str, int]]]


def target_report(found: Fitness, recipe: str, file: str) -> TargetReport:
    """What a target makes of its file."""
    accelerated = found.target.accelerator is not None
    return TargetReport(
        target=found.target.name,
        file=file,
        recipe=recipe,
        runs_as_asked=found.runs_as_asked,
        accelerated_percent=found.accelerated_percent,
        cpu_operators=tuple(
            f"{placement.operator.name} ({placement.tensor.split('/')[0]})"
            for placement in found.placements
            if accelerated and placement.where == "CPU"
        ),
        weights_kib=found.weights_kib,
        activations_kib=found.activations_kib,
        cycles=found.compiled.cycles if found.compiled else None,
        advice=found.advice,
    )


@contextlib.contextmanager
def reports(folder: Path) -> Iterator[Callable[[ConversionReport], None]]:
    """A function that writes `report.json` and `report.html` aside; they get their names when all went well.

    A disk that fills is then met before there is a release.

    Raises:
        DiskError: The disk failed.
    """
    from .conversion_page import html

    written: dict[Path, Path] = {}

    def write(report: ConversionReport) -> None:
        pages = {
            "report.json": msgspec.json.format(msgspec.json.encode(report), indent=2),
            "report.html": html(report).encode(),
        }
        for name, page in pages.items():
            partial = folder / f".{name}.partial"
            written[partial] = folder / name
            try:
                release_folder.write(partial, page)
            except OSError as error:
                raise DiskError(f"Cannot write {str(folder / name)!r}: {error.strerror}.") from error

    try:
        yield write
        for partial, path in written.items():
            partial.replace(path)
    finally:
        for partial in written:
            partial.unlink(missing_ok=True)
