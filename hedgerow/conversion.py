"""One conversion: a model and data in, a release out whose accuracy and numbers are proved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .conversion_options import ConversionOptions
from .conversion_report import ConversionReport, reports, target_report
from .errors import CompilerError, InterpreterError, VerificationError
from .hardware import execution, fitness, targets, verification
from .hardware.benchmark import RUNTIMES, Benchmark, benchmark
from .hardware.compilation import Compilation
from .hardware.execution import ExecutingRuntime
from .hardware.fitness import Fitness
from .hardware.targets import Target
from .hardware.verification import Verification
from .protocol.signatures import SigningKey
from .quantization import (
    Converter,
    ConverterProcess,
    Gate,
    Release,
    Rung,
    build_release,
    recipes,
    release_folder,
)
from .quantization.gate import LADDER, ladder_of
from .quantization.loading import Data, Examples, load_examples, load_model

if TYPE_CHECKING:
    import keras

Say = Callable[[str], None]

_BENCHMARK_RUNS = 20
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion."""

    release: Release
    rungs: tuple[Rung, ...]
    fitness: tuple[Fitness, ...]
    verifications: dict[str, tuple[Verification, ...]]
    report: ConversionReport


def convert(
    model: str | Path | keras.Model,
    *,
    data: str | Path | Data,
    out: str | Path,
    target: Sequence[str] = (),
    recipe: Sequence[str] = (),
    max_drop: float = 0.01,
    length: int | None = None,
    name: str | None = None,
    version: str = "1.0.0",
    key: str | Path | None = None,
    seed: int = 0,
    on_stage: Say | None = None,
) -> Conversion:
    """Converts a model to a release for chips, as `hedgerow convert` does, in its words.

    Args:
        model: A Keras model, or a `.keras` file, a SavedModel's folder, a float `.tflite`,
            `package.module:function` that returns a Keras model, or a name of the zoo.
        data: `(x, y)` or `(x, y, labels)`, or an `.npz` with these, a folder of images or WAV files by class,
            a CSV or Parquet file, or `package.module:function` that returns them.
        out: Folder that the release `<name>-<version>` is built in, and the reports written to.
        target: Names of what to convert for; without any, the gate's whole ladder is open.
        recipe: Recipes to try, in this order, instead of the ladder.
        max_drop: Largest drop of the metric on held-out data, absolute.
        length: Steps of a window of a CSV or Parquet file; by default what the model takes.
        name: Of the release; by default the model's.
        version: `MAJOR.MINOR.PATCH`, higher than those in `out`.
        key: PEM file of the key that signs the manifest.
        seed: Of the split into calibration and test, and of fine-tuning.
        on_stage: Called with a line of text when something begins.

    Raises:
        GateError: No recipe that a target runs kept the accuracy; `rungs` holds what was tried.
        HedgerowError: Something is wrong with the model, the data, a target, or the disk.
    """
    options = ConversionOptions(
        model=model,
        data=data,
        out=Path(out),
        targets=tuple(target),
        recipes=tuple(recipe),
        max_drop=max_drop,
        length=length,
        name=name,
        version=version,
        key=None if key is None else Path(key),
        seed=seed,
    )
    return run_conversion(options, on_stage=on_stage)


def run_conversion(
    options: ConversionOptions, *, on_stage: Say | None = None, process: ConverterProcess | None = None
) -> Conversion:
    """Converts a model: gate, release, verification and the check of every target; see :func:`convert`.

    A converter's process that was started before TensorFlow was imported here saves seconds; it is closed.
    """
    say = on_stage or (lambda _: None)
    chosen_targets = [targets.load(name) for name in options.targets]
    for recipe in options.recipes:
        recipes.get(recipe)
    key = SigningKey.read(options.key) if options.key else None
    release_folder.prepare(options.out)
    with Converter(process) as converter, reports(options.out) as write_report:
        say("loading the model and the data")
        model = load_model(options.model)
        name = options.name or _release_name(model.name)
        release_folder.destination_of(options.out, name, options.version)
        examples = load_examples(options.data, model, seed=options.seed, length=options.length)
        gate = Gate(
            model,
            calibration=examples.calibration,
            test=(examples.test, examples.answers),
            training=examples.training,
            max_drop=options.max_drop,
            converter=converter,
            seed=options.seed,
            on_progress=say,
        )
        chosen = _climb(gate, chosen_targets, options.recipes)
        proof = _Proof(options, gate, chosen, chosen_targets, write_report, say)
        say("building the release")
        release = _release(options, name, model, examples, gate, chosen, key, converter, proof)
    assert proof.report is not None
    return Conversion(release, tuple(gate.rungs), proof.fitness, proof.report.verifications, proof.report)


class _Proof:
    """Looks at the files of a release before it gets its name: what fails here leaves none.

    Attributes:
        fitness: What each target makes of its file.
        report: What was found.
    """

    def __init__(
        self,
        options: ConversionOptions,
        gate: Gate,
        chosen: Mapping[str, str],
        chosen_targets: Sequence[Target],
        write_report: Callable[[ConversionReport], None],
        say: Say,
    ) -> None:
        self.fitness: tuple[Fitness, ...] = ()
        self.report: ConversionReport | None = None
        self._options = options
        self._gate = gate
        self._chosen = chosen
        self._targets = chosen_targets
        self._write_report = write_report
        self._say = say

    def __call__(
        self, destination: Path, files: Mapping[str, Path], compiled: Mapping[str, Compilation]
    ) -> None:
        """Verifies, checks and measures the files, and writes the report."""
        self._say("verifying the files on every runtime")
        verifications = _verify(files, self._targets, self._chosen)
        found, reported = [], []
        for target in self._targets:
            self._say(f"checking the file for {target.name}")
            recipe = self._chosen[target.name]
            # The interpreters have just run it; compilers and other runtimes say more than the rules.
            interpreted = target.accelerator is None and set(target.verify) <= set(RUNTIMES)
            compilation = compiled.get(target.name)
            found.append(fitness.check(files[recipe], target, run=not interpreted, compilation=compilation))
            file = files[recipe] if compilation is None else compilation.output
            reported.append(target_report(found[-1], recipe, file.name))
        self.fitness = tuple(found)
        costs = self._gate.costs()
        self._say("measuring the latency of the files")
        name, _, version = destination.name.rpartition("-")
        self.report = ConversionReport(
            name=name,
            version=version,
            folder=str(destination),
            rungs=tuple(self._gate.rungs),
            targets=tuple(reported),
            verifications=verifications,
            benchmarks=_benchmarks({path.name: path for path in files.values()}, verifications),
            layers=costs,
            operators={one.target.name: fitness.operator_counts(one) for one in found},
        )
        self._say("writing the report")
        self._write_report(self.report)


def _climb(gate: Gate, chosen_targets: Sequence[Target], asked: Sequence[str]) -> dict[str, str]:
    """The recipe that the gate chose for each target, by the target's name; "" without any target."""
    if not chosen_targets:
        return {"": gate.climb(asked or LADDER).recipe}
    return {
        target.name: gate.climb(asked or ladder_of(target), target=target.name).recipe
        for target in chosen_targets
    }


def _release(
    options: ConversionOptions,
    name: str,
    model: keras.Model,
    examples: Examples,
    gate: Gate,
    chosen: Mapping[str, str],
    key: SigningKey | None,
    converter: Converter,
    proof: _Proof,
) -> Release:
    names = tuple(dict.fromkeys(chosen.values()))
    return build_release(
        options.out,
        name=name,
        version=options.version,
        model=model,
        calibration=examples.calibration,
        test=(examples.test, examples.answers),
        labels=examples.labels,
        recipes=names,
        targets=options.targets,
        key=key,
        converter=converter,
        converted=gate.files,
        comparison=gate.comparison(names),
        compile_from=chosen,
        on_built=proof,
    )


def _verify(
    files: Mapping[str, Path], chosen_targets: Sequence[Target], chosen: Mapping[str, str]
) -> dict[str, tuple[Verification, ...]]:
    """Runs each file against the golden vectors: on the interpreters, and on what its targets use.

    Raises:
        VerificationError: A file fails on a runtime that one of its targets uses.
    """
    golden, installed = files.get("golden"), execution.installed()
    verified: dict[str, tuple[Verification, ...]] = {}
    for recipe, path in files.items():
        if golden is None or recipe in ("golden", "trainable"):
            continue
        needed: dict[str, str] = {
            runtime: target.name
            for target in chosen_targets
            if chosen[target.name] == recipe
            for runtime in target.verify
        }
        wanted = [one for one in installed if one in needed or one in verification.runtimes_for(recipe)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tried = [pool.submit(_verified, path, golden, one, needed.get(one)) for one in wanted]
        verified[path.name] = tuple(one for done in tried if (one := done.result()) is not None)
    return verified


def _verified(path: Path, golden: Path, runtime: ExecutingRuntime, target: str | None) -> Verification | None:
    """One file on one runtime; None if it does not run there and no target needs that."""
    try:
        found = verification.verify(path, golden, runtime=runtime)
    except (InterpreterError, CompilerError) as error:
        if target is None:
            return None
        raise VerificationError(
            f"Expected {path.name!r} to run on {runtime}, which {target} uses: {error.args[0]}"
        ) from error
    if target is not None and not found.passed:
        raise VerificationError(
            f"Expected {path.name!r} to answer on {runtime}, which {target} uses, as on the reference "
            f"kernels; its outputs are off by up to {found.difference:.3g}."
        )
    return found


def _benchmarks(
    files: Mapping[str, Path], verifications: Mapping[str, tuple[Verification, ...]]
) -> tuple[Benchmark, ...]:
    return tuple(
        benchmark(files[name], runtime=one.runtime, runs=_BENCHMARK_RUNS)
        for name, found in verifications.items()
        for one in found
        if one.runtime in RUNTIMES
    )


def _release_name(model: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:48].strip("-") or "model"
