"""One conversion: a model and data in, a release out whose accuracy and numbers are proved."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .errors import ReleaseBuildError
from .hardware import fitness, machine, targets, verification
from .hardware.benchmark import Benchmark, benchmark
from .hardware.fitness import Fitness
from .hardware.verification import Verification
from .protocol.signatures import SigningKey
from .quantization import Converter, Gate, LayerCost, Release, Rung, build_release, layer_costs
from .quantization.fake_quant import quantizable_layers
from .quantization.gate import LADDER, ladder_of
from .quantization.loading import load_examples, load_model

_BENCHMARK_RUNS = 20
_RUNTIMES = {"tflite": "tflite-runtime", "litert": "ai-edge-litert"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What `hedgerow convert` was asked for, in its words."""

    model: str
    data: str
    out: Path
    targets: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    max_drop: float = 0.01
    name: str | None = None
    version: str = "1.0.0"
    key: Path | None = None
    seed: int = 0


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """What report.json says about one target.

    Attributes:
        target: Its name.
        file: The file for it.
        recipe: The recipe that the gate chose.
        runs_as_asked: Whether every operator is where it should be, and the memory suffices.
        accelerated_percent: Share of the operators where they should be.
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
        rungs: The recipes that were tried, with their accuracy.
        targets: What each target makes of its file.
        verifications: Each file on each runtime against the reference kernels.
        benchmarks: Each file's latency on each runtime of this machine.
        layers: What rounding each layer alone costs, the costliest first.
        operators: For each target and operator, how often it runs in each place.
    """

    name: str
    version: str
    folder: str
    rungs: tuple[Rung, ...]
    targets: tuple[TargetReport, ...]
    verifications: dict[str, tuple[Verification, ...]]
    benchmarks: tuple[Benchmark, ...]
    layers: tuple[LayerCost, ...]
    operators: dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion."""

    release: Release
    rungs: tuple[Rung, ...]
    fitness: tuple[Fitness, ...]
    verifications: dict[str, tuple[Verification, ...]]
    report: ConversionReport


def run_conversion(
    options: ConversionOptions, *, on_stage: Callable[[str], None] | None = None
) -> Conversion:
    """Converts a model: gate, release, verification and the check of every target.

    Args:
        options: What was asked for.
        on_stage: Called with a line of text when something begins.

    Raises:
        GateError: No recipe that a target runs kept the accuracy.
        HedgerowError: Something is wrong with the model, the data, a target, or the disk.
    """
    say = on_stage or (lambda _: None)
    chosen_targets = [targets.load(name) for name in options.targets]
    key = SigningKey.read(options.key) if options.key else None
    with Converter() as converter:
        model = load_model(options.model)
        examples = load_examples(options.data, model, seed=options.seed)
        gate = Gate(
            model,
            calibration=examples.calibration,
            test=(examples.test, examples.answers),
            max_drop=options.max_drop,
            converter=converter,
            on_rung=lambda rung: say(f"measured {rung}"),
        )
        say("converting and measuring")
        recipes = {}
        for target in chosen_targets:
            ladder = options.recipes or ladder_of(target)
            recipes[target.name] = gate.climb(ladder, target=target.name).recipe
        if not chosen_targets:
            recipes[""] = gate.climb(options.recipes or LADDER).recipe
        say("building the release")
        release = build_release(
            options.out,
            name=options.name or _release_name(model.name),
            version=options.version,
            model=model,
            calibration=examples.calibration,
            test=(examples.test, examples.answers),
            labels=examples.labels,
            recipes=tuple(dict.fromkeys(recipes.values())),
            targets=options.targets,
            key=key,
            converter=converter,
        )
    say("verifying the files on every runtime")
    verifications = _verify(release)
    found = tuple(fitness.check(release.files[recipes[target.name]], target) for target in chosen_targets)
    report = ConversionReport(
        name=release.manifest.name,
        version=release.manifest.version,
        folder=str(release.folder),
        rungs=tuple(gate.rungs),
        targets=tuple(_target_report(one, recipes[one.target.name], release) for one in found),
        verifications=verifications,
        benchmarks=_benchmarks(release, verifications),
        layers=layer_costs(model, examples.calibration) if quantizable_layers(model) else (),
        operators={one.target.name: fitness.operator_counts(one) for one in found},
    )
    from .conversion_page import html

    _write(options.out / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2))
    _write(options.out / "report.html", html(report).encode())
    return Conversion(release, tuple(gate.rungs), found, verifications, report)


def _verify(release: Release) -> dict[str, tuple[Verification, ...]]:
    golden = release.files.get("golden")
    if golden is None:
        return {}
    installed = machine.probe().runtimes
    runtimes = [short for short, name in _RUNTIMES.items() if name in installed]
    return {
        path.name: tuple(
            verification.verify(path, golden, runtime=runtime)
            for runtime in runtimes
            if not (kind == "int4" and runtime == "tflite")
        )
        for kind, path in release.files.items()
        if kind not in release.compiled and kind not in ("golden", "trainable")
    }


def _benchmarks(
    release: Release, verifications: dict[str, tuple[Verification, ...]]
) -> tuple[Benchmark, ...]:
    return tuple(
        benchmark(release.folder / name, runtime=one.runtime, runs=_BENCHMARK_RUNS)
        for name, found in verifications.items()
        for one in found
    )


def _target_report(found: Fitness, recipe: str, release: Release) -> TargetReport:
    name = found.target.name
    return TargetReport(
        target=name,
        file=release.files[name if name in release.compiled else recipe].name,
        recipe=recipe,
        runs_as_asked=found.runs_as_asked,
        accelerated_percent=found.accelerated_percent,
        weights_kib=found.weights_kib,
        activations_kib=found.activations_kib,
        cycles=found.compiled.cycles if found.compiled else None,
        advice=found.advice,
    )


def _release_name(model: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:48].strip("-") or "model"


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ReleaseBuildError(f"Cannot write {str(path)!r}: {error.strerror}.") from error
