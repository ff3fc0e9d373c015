"""What a signature of a model file costs: operators, weights, working memory, arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .flatbuffer import Table, read_model
from .operators import operator_name

_ELEMENT_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 10: 8, 12: 8, 15: 4, 16: 2}
_UNCOUNTED = {
    "RESHAPE", "TRANSPOSE", "CONCATENATION", "PAD", "PADV2", "SLICE", "STRIDED_SLICE", "SPLIT",
    "SPLIT_V", "PACK", "UNPACK", "GATHER", "GATHER_ND", "TILE", "BROADCAST_TO", "REVERSE_V2",
    "SQUEEZE", "EXPAND_DIMS", "FILL", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE",
    "WHILE", "IF", "SHAPE", "CAST", "RANGE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
    "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "ZEROS_LIKE", "MIRROR_PAD",
}  # fmt: skip
_BRANCHES = {"WHILE": (0, 1), "IF": (0, 1)}


@dataclass(frozen=True, slots=True)
class SignatureReport:
    """The cost of running one signature once.

    Attributes:
        operators: How often each operator occurs; the body of a loop counts once.
        weight_bytes: Bytes of the variables that it reads or writes.
        peak_bytes: The most bytes of intermediate tensors alive at one time; the arena needs at least these.
        flops: Floating-point operations, a multiplication and an addition being two; a loop's body once.
    """

    operators: dict[str, int]
    weight_bytes: int
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
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    model = _Model(read_model(data))
    places = {entry.text(2): entry.scalar(4, "I") for entry in model.root.tables(7)} or {"": 0}
    return FileReport(len(data), {name: model.report(place) for name, place in sorted(places.items())})


@dataclass(frozen=True, slots=True)
class _Operator:
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None


class _Subgraph:
    def __init__(self, table: Table, names: list[str]) -> None:
        tensors = list(table.tables(0))
        self.shapes = [tensor.integers(0) for tensor in tensors]
        self.buffers = [tensor.scalar(2, "I") for tensor in tensors]
        self._element_bytes = [_ELEMENT_BYTES.get(tensor.scalar(1, "b"), 0) for tensor in tensors]
        self.inputs, self.outputs = table.integers(1), table.integers(2)
        self.operators = [
            _Operator(names[entry.scalar(0, "I")], entry.integers(1), entry.integers(2), entry.table(4))
            for entry in table.tables(3)
        ]

    def elements(self, tensor: int) -> int:
        return math.prod(self.shapes[tensor])

    def bytes(self, tensor: int) -> int:
        return self.elements(tensor) * self._element_bytes[tensor]


class _Model:
    def __init__(self, root: Table) -> None:
        self.root = root
        codes = [max(entry.scalar(0, "b"), entry.scalar(3, "i")) for entry in root.tables(1)]
        names = [operator_name(code) for code in codes]
        self.subgraphs = [_Subgraph(table, names) for table in root.tables(2)]

    @cached_property
    def constant_buffers(self) -> frozenset[int]:
        return frozenset(index for index, buffer in enumerate(self.root.tables(4)) if buffer.size(0))

    def report(self, place: int) -> SignatureReport:
        graphs = self._reachable(place)
        names = Counter(operator.name for graph in graphs for operator in graph.operators)
        flops = sum(_flops(operator, graph) for graph in graphs for operator in graph.operators)
        variables: dict[bytes, int] = {}
        for graph in graphs:
            variables |= _variables(graph)
        return SignatureReport(
            operators=dict(sorted(names.items())),
            weight_bytes=sum(variables.values()),
            peak_bytes=self._peak(place),
            flops=flops,
        )

    def _reachable(self, place: int) -> list[_Subgraph]:
        graph = self.subgraphs[place]
        inner = [_branches(operator) for operator in graph.operators]
        return [graph, *(found for places in inner for branch in places for found in self._reachable(branch))]

    def _peak(self, place: int) -> int:
        """The most bytes alive at one operator: a tensor lives from its producer to its last reader."""
        graph = self.subgraphs[place]
        last = {tensor: index for index, op in enumerate(graph.operators) for tensor in op.inputs}
        last |= dict.fromkeys(graph.outputs, len(graph.operators))
        alive = sum(graph.bytes(tensor) for tensor in graph.inputs)
        peak, live = alive, set(graph.inputs)
        for index, operator in enumerate(graph.operators):
            fresh = [t for t in operator.outputs if graph.buffers[t] not in self.constant_buffers]
            live.update(fresh)
            alive += sum(graph.bytes(tensor) for tensor in fresh)
            inside = max((self._peak(branch) for branch in _branches(operator)), default=0)
            peak = max(peak, alive + inside)
            done = {tensor for tensor in operator.inputs if tensor in live and last[tensor] == index}
            done |= {tensor for tensor in fresh if tensor not in last}
            live -= done
            alive -= sum(graph.bytes(tensor) for tensor in done)
        return peak


def _branches(operator: _Operator) -> list[int]:
    if operator.options is None:
        return []
    return [operator.options.scalar(field, "i") for field in _BRANCHES.get(operator.name, ())]


def _variables(graph: _Subgraph) -> dict[bytes, int]:
    """Bytes of each variable that a subgraph touches, by the variable's name."""
    handles = {
        operator.outputs[0]: operator.options.content(1)
        for operator in graph.operators
        if operator.name == "VAR_HANDLE" and operator.options is not None
    }
    sizes: dict[bytes, int] = {}
    for operator in graph.operators:
        if operator.name in ("READ_VARIABLE", "ASSIGN_VARIABLE") and operator.inputs[0] in handles:
            value = operator.outputs[0] if operator.name == "READ_VARIABLE" else operator.inputs[1]
            sizes[handles[operator.inputs[0]]] = graph.bytes(value)
    return sizes


def _flops(operator: _Operator, graph: _Subgraph) -> int:
    if operator.name in _UNCOUNTED or not operator.outputs:
        return 0
    size = graph.elements(operator.outputs[0])
    shapes = [graph.shapes[tensor] if tensor >= 0 else () for tensor in operator.inputs]
    if operator.name == "CONV_2D":
        return 2 * size * math.prod(shapes[1][1:])
    if operator.name == "DEPTHWISE_CONV_2D":
        return 2 * size * math.prod(shapes[1][1:3])
    if operator.name == "TRANSPOSE_CONV":
        return 2 * math.prod(shapes[2]) * math.prod(shapes[1][:3])
    if operator.name == "CONV_3D":
        return 2 * size * math.prod(shapes[1][:4])
    if operator.name == "CONV_3D_TRANSPOSE":
        return 2 * math.prod(shapes[2]) * math.prod(shapes[1][:4])
    if operator.name == "FULLY_CONNECTED":
        return 2 * size * shapes[1][-1]
    if operator.name == "BATCH_MATMUL":
        return 2 * math.isqrt(math.prod(shapes[0]) * math.prod(shapes[1]) * size // _batch(shapes, size))
    if operator.name in ("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "ARG_MAX", "CUMSUM"):
        return math.prod(shapes[0])
    return size


def _batch(shapes: list[tuple[int, ...]], size: int) -> int:
    """The batch of a matrix product: ``sqrt(ab * bc * ac / batch)`` is then ``batch * a * b * c``."""
    return max(1, math.prod(max(shapes[0][:-2], shapes[1][:-2], key=math.prod)))
