"""Does a model file run on a target: where each operator runs, and whether it fits into the memory."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import CompilerError, ModelFileError
from . import vela
from .graph import Graph, GraphOperator, GraphTensor, ModelGraphs, read_graphs
from .inspection import inspect_file
from .targets import Rules, Target

_ADVICE = {
    "CONV_3D": "Use 2D convolutions over the slices, or keep the model on a CPU in float.",
    "WHILE": "Convert with Hedgerow, which fuses LSTMs and unrolls other recurrent layers.",
    "REVERSE_V2": "Use forward LSTMs; a bidirectional one needs the reversal.",
    "SELECT_V2": "Take the masking out of the model, and pad the data to the full length.",
    "CUSTOM": "Replace the custom operator by built-in ones.",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one operator runs.

    Attributes:
        operator: The operator.
        tensor: Name of its first output.
        where: The accelerator's name, `CPU`, or `nowhere`.
        reason: Why not on the accelerator, or why nowhere; empty if it is where it should be.
    """

    operator: GraphOperator
    tensor: str
    where: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fitness:
    """How a model file and a target go together.

    Attributes:
        target: The target.
        placements: Every operator of the inference graph in the order of execution.
        weights_kib: What the weights take: the file, or the compiled one.
        activations_kib: The most that tensors of one inference take at one time.
        compiled: The compiler's report where it is installed.
    """

    target: Target
    placements: tuple[Placement, ...]
    weights_kib: float
    activations_kib: float
    compiled: vela.VelaReport | None = None

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
        """Whether every operator is where it should be, and everything fits."""
        return self.first_fallback is None and self.weights_fit and self.activations_fit

    @property
    def advice(self) -> str:
        """What to change, for the first thing that is wrong."""
        fallback = self.first_fallback
        if fallback is not None and fallback.reason.startswith(("it takes", "it has no")):
            kinds = ["int8" if kind == "compiled" else kind for kind in self.target.kinds]
            return f"Convert with one of the recipes {', '.join(kinds)}."
        if fallback is not None:
            name = fallback.operator.name.split(":")[0]
            return _ADVICE.get(name, f"Replace {name} in the model, or choose another target.")
        if not self.weights_fit:
            return "Quantize to int8, or make the model narrower."
        return (
            "" if self.activations_fit else "Make the first layers' outputs smaller: stride or pool earlier."
        )


def check(source: str | Path | bytes, target: Target) -> Fitness:
    """Places every operator of a file's inference graph on a target's processors.

    For a target with a compiler that is installed here, the compiler says which operators it leaves.

    Raises:
        ModelFileError: The file is missing or damaged.
        CompilerError: The target's compiler failed on a file whose operators its rules allow.
    """
    model = read_graphs(source)
    place = model.signatures.get("infer", min(model.signatures.values(), default=0))
    graph = model.graphs[place]
    placements = _place(graph, target)
    report = _compile(source, target, model) if target.compiled else None
    if report is not None:
        placements = _as_compiled(placements, report, target)
    return Fitness(
        target=target,
        placements=placements,
        weights_kib=report.flash_kib if report else model.size_bytes / 1024,
        activations_kib=report.sram_kib if report else _peak_bytes(source, model, place) / 1024,
        compiled=report,
    )


def operator_counts(fitness: Fitness) -> dict[str, dict[str, int]]:
    """How often each operator runs in each place: `{"CONV_2D": {"Ethos-U55": 2}}`."""
    counts: dict[str, Counter[str]] = {}
    for placement in fitness.placements:
        counts.setdefault(placement.operator.name, Counter())[placement.where] += 1
    return {name: dict(places) for name, places in sorted(counts.items())}


def _place(graph: Graph, target: Target) -> tuple[Placement, ...]:
    placements = []
    cut = ""
    for operator in graph.operators:
        tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
        name = graph.tensors[operator.outputs[0]].name if operator.outputs else ""
        on_cpu = _obstacle(operator, tensors, target.cpu)
        if target.accelerator is None:
            placements.append(Placement(operator, name, "nowhere" if on_cpu else "CPU", on_cpu))
            continue
        rules = target.accelerator.rules
        reason = cut or _obstacle(operator, tensors, rules)
        if reason and rules.prefix_only and not cut:
            cut = f"it comes after {operator.name}, from which on everything is on the CPU"
        where = ("nowhere" if on_cpu else "CPU") if reason else target.accelerator.name
        placements.append(Placement(operator, name, where, reason))
    return tuple(placements)


def _obstacle(operator: GraphOperator, tensors: list[GraphTensor], rules: Rules) -> str:
    """Why a processor does not run an operator; empty if it does."""
    if operator.name.startswith("CUSTOM:"):
        return f"{operator.name.removeprefix('CUSTOM:')} is a custom operator"
    if (rules.operators and operator.name not in rules.operators) or operator.name in rules.excluded:
        return f"it does not have {operator.name}"
    newest = rules.versions.get(operator.name)
    if newest is not None and operator.version > newest:
        return f"it has {operator.name} up to version {newest}, this is {operator.version}"
    for tensor in tensors:
        if tensor.dtype in rules.excluded_dtypes:
            return f"it has no {tensor.dtype}"
        if tensor.constant or tensor.variable:
            continue
        if rules.dtypes and tensor.dtype not in rules.dtypes:
            return f"it takes {', '.join(rules.dtypes)}, this has {tensor.dtype}"
        if rules.static_shapes and -1 in tensor.shape:
            return f"it needs sizes that are fixed, this has {list(tensor.shape)}"
        if rules.large_dimensions and sum(size > 1 for size in tensor.shape) > rules.large_dimensions:
            return f"it takes at most {rules.large_dimensions} sizes above 1, this has {list(tensor.shape)}"
    return ""


def _compile(source: str | Path | bytes, target: Target, model: ModelGraphs) -> vela.VelaReport | None:
    """The compiler's report; None if it is not installed or takes no such file."""
    assert target.accelerator is not None
    float_only = all(tensor.dtype == "float32" for graph in model.graphs for tensor in graph.tensors[:1])
    if not vela.is_installed() or float_only:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(source if isinstance(source, bytes) else Path(source).read_bytes())
        try:
            return vela.compile(path, target.accelerator.configuration, folder)
        except CompilerError as error:
            raise CompilerError(
                str(error.args[0]), remedy="Run the recipe int8 first.", path=str(source)
            ) from error


def _as_compiled(
    placements: tuple[Placement, ...], report: vela.VelaReport, target: Target
) -> tuple[Placement, ...]:
    """The placements that the compiler made instead of those of the rules."""
    assert target.accelerator is not None
    left = {(found.operator, found.tensor): found.reason for found in report.cpu_operators}
    renamed = []
    for placement in placements:
        reason = left.get((placement.operator.name, placement.tensor))
        where = target.accelerator.name if reason is None else "CPU"
        renamed.append(Placement(placement.operator, placement.tensor, where, reason or ""))
    return tuple(renamed)


def _peak_bytes(source: str | Path | bytes, model: ModelGraphs, place: int) -> int:
    try:
        reports = inspect_file(source).signatures
    except (IndexError, ValueError) as error:
        raise ModelFileError(
            "Expected a whole TFLite file, received one that does not hold together."
        ) from error
    name = next((name for name, found in model.signatures.items() if found == place), "")
    return reports[name].peak_bytes
