"""What the compiler of an accelerator says about a file, whichever compiler it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .graph import Graph, GraphOperator


@dataclass(frozen=True, slots=True)
class CpuOperator:
    """An operator that stays on the CPU.

    Attributes:
        operator: Its TFLite name.
        tensor: Name of its output; empty where the compiler does not say.
        reason: The constraint that it does not meet, in the compiler's words.
    """

    operator: str
    tensor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A file that was compiled for an accelerator.

    Attributes:
        compiler: Name of the compiler.
        output: The compiled file; gone if nobody kept it.
        weights_kib: What its weights and commands take.
        activations_kib: What one inference takes; None where the compiler does not say.
        cpu_operators: What stays on the CPU, in the order of the graph.
        cycles: Estimated cycles of one inference; None where the compiler does not say.
        inference_ms: The time of those cycles.
        accelerated_percent: Share of the operators on the accelerator; None where `cpu_operators` says it.
        warnings: What its numbers assume, in the compiler's words.
    """

    compiler: str
    output: Path
    weights_kib: float
    activations_kib: float | None = None
    cpu_operators: tuple[CpuOperator, ...] = ()
    cycles: int | None = None
    inference_ms: float | None = None
    accelerated_percent: float | None = None
    warnings: tuple[str, ...] = ()


def left_on_cpu(source: Graph, compiled: Graph, *, named: Collection[str] = ()) -> tuple[CpuOperator, ...]:
    """The operators of a graph that its compiler left as they were, found in what it made.

    Compilers put a custom operator in the place of what they take and rename tensors at will: an operator of
    the compiled graph is one of the source with the same name and the same sizes, of several those in `named`
    and then the first.
    """
    counts = Counter(
        (operator.name, _shape(compiled, operator))
        for operator in compiled.operators
        if not operator.name.startswith("CUSTOM:")
    )
    left = set()
    for preferred in (True, False):
        for operator in source.operators:
            kind, tensor = (operator.name, _shape(source, operator)), _tensor(source, operator)
            if counts[kind] > 0 and operator.index not in left and (tensor in named or not preferred):
                counts[kind] -= 1
                left.add(operator.index)
    return tuple(
        CpuOperator(source.operators[index].name, _tensor(source, source.operators[index]), "")
        for index in sorted(left)
    )


def _shape(graph: Graph, operator: GraphOperator) -> tuple[int, ...]:
    tensors = graph.output_tensors(operator)
    return tuple(abs(size) for size in tensors[0].shape) if tensors else ()


def _tensor(graph: Graph, operator: GraphOperator) -> str:
    tensors = graph.output_tensors(operator)
    return tensors[0].name if tensors else ""
