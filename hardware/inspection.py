"""What a signature of a model file costs: operators, weights, working memory, arithmetic."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelFileError
from .arithmetic import flops
from .graph import Graph, ModelGraphs, read_graphs


@dataclass(frozen=True, slots=True)
class SignatureReport:
    """The cost of running one signature once.

    Attributes:
        operators: How often each operator occurs; the body of a loop counts once.
        weight_bytes: Bytes of the variables that it reads or writes.
        constant_bytes: Bytes of the constants that its operators read.
        peak_bytes: The most bytes of intermediate tensors alive at one time; the arena needs at least these.
        flops: Floating-point operations, a multiplication and an addition being two; a loop's body once.
    """

    operators: dict[str, int]
    weight_bytes: int
    constant_bytes: int
    peak_bytes: int
    flops: int


@dataclass(frozen=True, slots=True)
class FileReport:
    """The cost of every signature of a file; ``""`` where it has none.

    Attributes:
        size_bytes: Size of the file.
        signatures: A report by signature name.
    """

    size_bytes: int
    signatures: dict[str, SignatureReport]


def inspect_file(source: str | Path | bytes) -> FileReport:
    """Reads a model file's cost without running it, and without TensorFlow.

    Raises:
        ModelFileError: It is not a TFLite flatbuffer.
    """
    return inspect_graphs(read_graphs(source))


def inspect_graphs(model: ModelGraphs) -> FileReport:
    """The cost of every signature of a file that was read.

    Raises:
        ModelFileError: An operator has too few inputs, or a loop runs itself.
    """
    try:
        reports = {name: _report(model, place) for name, place in sorted(model.entries().items())}
    except (IndexError, KeyError) as error:
        raise ModelFileError(
            "Expected a whole TFLite file, received one with an operator that lacks inputs."
        ) from error
    return FileReport(model.size_bytes, reports)


def peak_bytes(model: ModelGraphs, place: int) -> int:
    """The most bytes of intermediate tensors of a subgraph that are alive at one operator.

    A tensor lives from its producer to its last reader; the graph's inputs and outputs, and tensors that keep
    a state, live throughout. An arena that is planned perfectly has this size, plus what kernels ask for.
    """
    return _peak(model, place, {})


def _report(model: ModelGraphs, place: int) -> SignatureReport:
    graphs = [model.graphs[inner] for inner in model.reachable(place)]
    names = Counter(operator.name for graph in graphs for operator in graph.operators)
    variables: dict[str, int] = {}
    for graph in graphs:
        variables |= _variables(graph)
    return SignatureReport(
        operators=dict(sorted(names.items())),
        weight_bytes=sum(variables.values()),
        constant_bytes=sum(map(_constant_bytes, graphs)),
        peak_bytes=peak_bytes(model, place),
        flops=sum(flops(operator, graph) for graph in graphs for operator in graph.operators),
    )


def _peak(model: ModelGraphs, place: int, known: dict[int, int]) -> int:
    """As `peak_bytes`; `known` holds the subgraphs that are done, and -1 for those under way."""
    if known.get(place, 0) < 0:
        raise ModelFileError("Expected loops whose bodies end, received a subgraph that runs itself.")
    if place in known:
        return known[place]
    known[place] = -1
    graph = model.graphs[place]
    last = {tensor: operator.index for operator in graph.operators for tensor in operator.inputs}
    kept = {i for i, tensor in enumerate(graph.tensors) if tensor.variable and not tensor.constant}
    kept |= {*graph.inputs, *graph.outputs}
    live = kept - set(graph.outputs) | set(graph.inputs)
    alive = sum(graph.tensors[tensor].size_bytes for tensor in live)
    peak = alive
    for operator in graph.operators:
        fresh = {i for i in operator.outputs if i not in live and not graph.tensors[i].constant}
        live |= fresh
        alive += sum(graph.tensors[tensor].size_bytes for tensor in fresh)
        inside = max((_peak(model, inner, known) for inner in operator.subgraphs), default=0)
        peak = max(peak, alive + inside)
        done = {i for i in operator.inputs if i in live and i not in kept and last[i] == operator.index}
        done |= {i for i in fresh if i not in last and i not in kept}
        live -= done
        alive -= sum(graph.tensors[tensor].size_bytes for tensor in done)
    known[place] = peak
    return peak


def _constant_bytes(graph: Graph) -> int:
    places = {place for operator in graph.operators for place in operator.inputs if place >= 0}
    return sum(graph.tensors[place].size_bytes for place in places if graph.tensors[place].constant)


def _variables(graph: Graph) -> dict[str, int]:
    """Bytes of each variable that a subgraph touches, by the variable's name."""
    handles = {operator.outputs[0]: operator.variable for operator in graph.operators if operator.variable}
    sizes: dict[str, int] = {}
    for operator in graph.operators:
        if operator.name in ("READ_VARIABLE", "ASSIGN_VARIABLE") and operator.inputs[0] in handles:
            value = operator.outputs[0] if operator.name == "READ_VARIABLE" else operator.inputs[1]
            sizes[handles[operator.inputs[0]]] = graph.tensors[value].size_bytes
    return sizes
