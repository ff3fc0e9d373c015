"""Files in which some operators stay float: which go together, and what becomes of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

from ..hardware.graph import Graph, GraphOperator

# fmt: off
_MOVEMENTS = frozenset((
    "CONCATENATION", "EXPAND_DIMS", "GATHER", "MAX_POOL_2D", "PACK", "PAD", "RELU", "RELU6", "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SLICE", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE",
    "UNPACK",
))
# fmt: on


def computing(graph: Graph) -> list[GraphOperator]:
    """The operators of a float file that round in int8; the others only move numbers."""
    return [
        operator
        for operator in graph.operators
        if operator.name not in _MOVEMENTS and graph.tensors[operator.outputs[0]].dtype == "float32"
    ]


def with_movements(graph: Graph, names: Sequence[str]) -> tuple[str, ...]:
    """The operators of these names, and those behind them that only move their numbers.

    A reshape between two float operators that stayed int8 would round what passes between them.
    """
    chosen = dict.fromkeys(names)
    producers = {place: operator for operator in graph.operators for place in operator.outputs}
    for operator in graph.operators:
        before = [producers[place] for place in operator.inputs if place in producers]
        if operator.name in _MOVEMENTS and before and all(name_of(one, graph) in chosen for one in before):
            chosen[name_of(operator, graph)] = None
    return tuple(chosen)


def name_of(operator: GraphOperator, graph: Graph) -> str:
    """The name of an operator's first output, which is how the quantizer calls the operator."""
    return graph.tensors[operator.outputs[0]].name


def float_ends(graph: Graph, names: Sequence[str]) -> tuple[bool, bool]:
    """Whether the inputs and the outputs of a file are float, if the operators of these names are.

    A number that comes from one float operator, or goes to float ones only, need not be rounded at all.
    """
    chosen = set(names)
    readers = [one for one in graph.operators if set(one.inputs) & set(graph.inputs)]
    writers = [one for one in graph.operators if set(one.outputs) & set(graph.outputs)]
    first, last = (
        bool(side) and all(name_of(one, graph) in chosen for one in side) for side in (readers, writers)
    )
    return first, last
