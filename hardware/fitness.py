"""Does a model file run on a target: where each operator runs, and whether it fits into the memory."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ..errors import CompilerError, HedgerowError, InterpreterError
from . import advice, compilers, execution, micro, vela, verification
from .compilation import Compilation
from .graph import ModelGraphs, read_graphs
from .inspection import peak_bytes
from .micro import Arena
from .placement import Placement, place
from .targets import Accelerator, Target
from .verification import Verification


@dataclass(frozen=True, slots=True)
class Fitness:
    """How a model file and a target go together.

    Attributes:
        target: The target.
        placements: Every operator of the inference graph in the order of execution; of every signature, where
            a target without an accelerator takes trainable files and this is one.
        weights_kib: What the weights take: the file, or the compiled one.
        activations_kib: The most that one inference takes: by the compiler, measured, or by the graph.
        compiled: The compiler's report where it is installed.
        arena: The tensor arena where it could be measured.
        verified: The runtime that stands for the target against the reference kernels, on random examples.
        failure: Why the file as a whole does not run there; empty if nothing speaks against it.
        wrong_kind: Whether the target takes no files of this kind at all.
        notes: What the result rests on.
    """

    target: Target
    placements: tuple[Placement, ...]
    weights_kib: float
    activations_kib: float
    compiled: Compilation | None = None
    arena: Arena | None = None
    verified: Verification | None = None
    failure: str = ""
    wrong_kind: bool = False
    notes: tuple[str, ...] = ()

    @property
    def first_fallback(self) -> Placement | None:
        """The first operator that is not where it should be."""
        return next((placement for placement in self.placements if placement.reason), None)

    @property
    def accelerated_percent(self) -> float:
        """Share of the operators on the accelerator, or on the CPU of a target without one."""
        good = sum(1 for placement in self.placements if not placement.reason)
        return 100.0 * good / max(1, len(self.placements))

    @property
    def weights_fit(self) -> bool:
        """Whether the weights fit into their memory."""
        limit = self.target.memory.weights_kib
        return limit is None or self.weights_kib <= limit

    @property
    def activations_fit(self) -> bool:
        """Whether the tensors of one inference fit into their memory."""
        limit = self.target.memory.activations_kib
        return limit is None or self.activations_kib <= limit

    @property
    def runs_as_asked(self) -> bool:
        """Whether every operator is where it should be, everything fits, and the numbers are right."""
        right = self.verified is None or self.verified.passed
        placed = self.first_fallback is None and not self.failure
        return placed and right and self.weights_fit and self.activations_fit

    @property
    def advice(self) -> str:
        """What to change, for the first thing that is wrong."""
        fallback = self.first_fallback
        if fallback is not None and not self.wrong_kind:
            return advice.for_operator(fallback, self.target)
        if self.failure:
            return advice.other_recipe(self.target)
        if not self.weights_fit:
            return "Quantize to int8, or make the model narrower."
        if not self.activations_fit:
            return "Make the first layers' outputs smaller: stride or pool earlier."
        return "" if self.runs_as_asked else "Choose another target: this one computes something else."


def check(
    source: str | Path | bytes, target: Target, *, run: bool = True, compilation: Compilation | None = None
) -> Fitness:
    """Places every operator of a file's inference graph on a target's processors.

    For a target with a compiler that is installed here, the compiler says which operators it leaves. For one
    whose runtime is installed here, the file is run: its arena is measured and its numbers are compared.

    Args:
        source: The file.
        target: The target.
        run: Whether to start compilers and runtimes; without, the rules of the description decide alone.
        compilation: What the target's compiler made of this file, to spare compiling it once more.

    Raises:
        ModelFileError: The file is missing or damaged.
    """
    model = read_graphs(source)
    trains = "train" in model.signatures
    everything = trains and target.accelerator is None and "trainable" in target.kinds
    entries = tuple(model.signatures.values()) if everything else (model.inference,)
    found = Fitness(
        target=target,
        placements=place(model, target, entries),
        weights_kib=model.size_bytes / 1024,
        activations_kib=max(peak_bytes(model, entry) for entry in entries) / 1024,
    )
    if trains and "trainable" not in target.kinds:
        takes = ", ".join(target.kinds)
        failure = f"it is a trainable file, and {target.name} takes {takes}"
        return replace(found, failure=failure, wrong_kind=True)
    if not run:
        return found
    with _file(source) as path:
        return _on_runtime(_compiled(found, path, model, compilation), path, model)


def operator_counts(fitness: Fitness) -> dict[str, dict[str, int]]:
    """How often each operator runs in each place: `{"CONV_2D": {"Ethos-U55": 2}}`."""
    counts: dict[str, Counter[str]] = {}
    for placement in fitness.placements:
        counts.setdefault(placement.operator.name, Counter())[placement.where] += 1
    return {name: dict(places) for name, places in sorted(counts.items())}


def summary(fitness: Fitness) -> dict[str, object]:
    """A check as JSON holds it: the verdict, the memory, and every operator."""
    fallback, memory = fitness.first_fallback, fitness.target.memory
    return {
        "target": fitness.target.name,
        "runs_as_asked": fitness.runs_as_asked,
        "failure": fitness.failure,
        "first_fallback": None if fallback is None else fallback.operator.index,
        "advice": fitness.advice,
        "accelerated_percent": fitness.accelerated_percent,
        "weights": {"kib": fitness.weights_kib, "limit_kib": memory.weights_kib, "fit": fitness.weights_fit},
        "activations": {
            "kib": fitness.activations_kib,
            "limit_kib": memory.activations_kib,
            "fit": fitness.activations_fit,
        },
        "arena": fitness.arena,
        "verified": fitness.verified,
        "compiled": None if fitness.compiled is None else replace(fitness.compiled, output=Path()),
        "notes": fitness.notes,
        "operators": [
            {
                "graph": one.graph,
                "index": one.operator.index,
                "operator": one.operator.name,
                "tensor": one.tensor,
                "shape": one.shape,
                "runs_on": one.where,
                "reason": one.reason,
            }
            for one in fitness.placements
        ],
    }


@contextmanager
def _file(source: str | Path | bytes) -> Iterator[Path]:
    """The file on the disk, where programs can read it."""
    if not isinstance(source, bytes):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(source)
        yield path


def _compiled(found: Fitness, path: Path, model: ModelGraphs, compilation: Compilation | None) -> Fitness:
    """What the target's compiler says, where it is here and the rules leave it anything to do."""
    accelerator = found.target.accelerator
    if accelerator is None or accelerator.compiler is None:
        return found
    if any(operator.name.startswith("CUSTOM:") for operator in model.graphs[model.inference].operators):
        return _compiled_already(found, path, accelerator)
    if not any(placement.where == accelerator.name for placement in found.placements):
        return found
    absent = compilers.missing(found.target)
    if compilation is None and absent:
        return replace(found, notes=(f"By rules alone: to compile the file, install {absent}.",))
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = compilation or compilers.compile_for(found.target, path, folder)
    except CompilerError as error:
        return replace(found, failure=str(error.args[0]).rstrip("."))
    activations = report.activations_kib
    return replace(
        found,
        placements=_as_compiled(found, report, model),
        weights_kib=report.weights_kib,
        activations_kib=found.activations_kib if activations is None else activations,
        compiled=report,
    )


def _compiled_already(found: Fitness, path: Path, accelerator: Accelerator) -> Fitness:
    """A file with custom operators, as compiled files have them, is not compiled again."""
    made_for = vela.configuration_of(path) if accelerator.compiler == "vela" else ""
    if made_for and made_for != accelerator.configuration:
        return replace(found, failure=f"it was compiled for {made_for}", wrong_kind=True)
    return replace(found, notes=("It has custom operators, as compiled files do: it is not compiled again.",))


def _as_compiled(found: Fitness, report: Compilation, model: ModelGraphs) -> tuple[Placement, ...]:
    """The placements that the compiler made instead of those of the rules."""
    assert found.target.accelerator is not None
    left = {(one.operator, one.tensor): one.reason for one in report.cpu_operators}
    # Vela calls an operator with a fused activation by the activation's name: its tensor says which it is.
    by_tensor = {one.tensor: one.reason for one in report.cpu_operators if one.tensor}
    without = msgspec.structs.replace(found.target, accelerator=None)
    placements = []
    for one, on_cpu in zip(found.placements, place(model, without, (model.inference,)), strict=True):
        reason = left.get((one.operator.name, one.tensor), by_tensor.get(one.tensor))
        where = found.target.accelerator.name if reason is None else on_cpu.where
        placements.append(replace(one, where=where, reason=reason or ""))
    return tuple(placements)


def _on_runtime(found: Fitness, path: Path, model: ModelGraphs) -> Fitness:
    """What happens when the file is run on the runtime that stands for the target, where that is here."""
    target = found.target
    if "micro" in target.verify and target.accelerator is None:
        if not micro.is_installed():
            return replace(found, notes=("By the graph: install hedgerow[micro] to measure the arena.",))
        try:
            arena = micro.measure(path)
        except InterpreterError as error:
            return _refused(found, error)
        found = replace(
            found,
            placements=tuple(replace(one, where="CPU", reason="") for one in found.placements),
            activations_kib=arena.total_kib,
            arena=arena,
        )
        return _verified(found, path, "micro")
    if "xcore" in target.verify and found.compiled is not None:
        return _verified(found, path, "xcore")
    if target.accelerator is None and found.first_fallback is None:
        return _executed(found, path, model)
    return found


def _executed(found: Fitness, path: Path, model: ModelGraphs) -> Fitness:
    """Whether the runtimes that the target has run one random example here."""
    ran = []
    for runtime in (one for one in execution.installed() if one in found.target.verify):
        try:
            execution.execute(path, execution.random_inputs(model, examples=1, seed=0), runtime=runtime)
        except HedgerowError as error:
            return replace(found, failure=str(error.args[0]).rstrip("."))
        ran.append(runtime)
    return replace(found, notes=(f"It was run here on {' and '.join(ran)}.",) if ran else found.notes)


def _refused(found: Fitness, error: InterpreterError) -> Fitness:
    """TFLite Micro's refusal, put down to the operator that it names."""
    name, index = error.facts.get("operator"), error.facts.get("index")
    words = str(error.facts.get("words") or error.args[0]).rstrip(".")
    placements = list(found.placements)
    for place_in_list, one in enumerate(placements):
        if one.operator.name == name and index in (None, one.operator.index):
            placements[place_in_list] = replace(one, where="nowhere", reason=words)
            return replace(found, placements=tuple(placements))
    return replace(found, failure=words)


def _verified(found: Fitness, path: Path, runtime: execution.ExecutingRuntime) -> Fitness:
    if "litert" not in execution.installed():
        return replace(found, notes=("Its numbers were not compared: install ai-edge-litert.",))
    try:
        return replace(found, verified=verification.verify_at_random(path, runtime=runtime))
    except HedgerowError as error:
        return replace(found, notes=(f"Its numbers were not compared: {error.args[0]}",))
