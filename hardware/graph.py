"""A model file as its operators and tensors, read without a runtime: what `check` and `inspect` look at."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ModelFileError
from .flatbuffer import Table, read_model, shown
from .operators import operator_name, operator_options, operator_subgraphs, variable_name

_TYPES = {
    0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 3: ("uint8", 8), 4: ("int64", 64),
    5: ("string", 0), 6: ("bool", 8), 7: ("int16", 16), 8: ("complex64", 64), 9: ("int8", 8),
    10: ("float64", 64), 11: ("complex128", 128), 12: ("uint64", 64), 13: ("resource", 0),
    14: ("variant", 0), 15: ("uint32", 32), 16: ("uint16", 16), 17: ("int4", 4), 18: ("bfloat16", 16),
    19: ("int2", 2), 20: ("uint4", 4), 21: ("float8_e4m3fn", 8), 22: ("float8_e5m2", 8),
}  # fmt: skip
# Constants of at most so many numbers are kept: axes, paddings and new shapes, which rules look at.
_KEPT_VALUES = 32


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """A tensor of a graph.

    Attributes:
        name: Its name; often empty or made up by a converter.
        shape: Sizes; -1 for one that is open.
        dtype: Element type.
        scales: Quantization scales: none, one, or one per channel.
        zero_points: As many zero points.
        constant: Whether its value is in the file.
        variable: Whether it is a state that lives from run to run.
        size_bytes: Bytes of its value, an open size counting as 1.
        values: The numbers of a short int32 constant, flat; empty for every other tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    constant: bool
    variable: bool
    size_bytes: int
    values: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """How many numbers it has, an open size counting as 1."""
        return math.prod(1 if size < 0 else size for size in self.shape)


@dataclass(frozen=True, slots=True)
class GraphOperator:
    """An operator of a graph.

    Attributes:
        index: Its place in the order of execution.
        name: TFLite's name, or the custom operator's own with `CUSTOM:` before it.
        version: Version of its kernel.
        inputs: Places of its input tensors; -1 for an optional one that is absent.
        outputs: Places of its outputs.
        options: Those of its options that a rule or a cost depends on.
        subgraphs: Places of the subgraphs that it runs.
        variable: Name of the variable that a VAR_HANDLE stands for.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int] = field(default_factory=dict)
    subgraphs: tuple[int, ...] = ()
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """One subgraph: the first is the model, the others are bodies of loops or other signatures."""

    tensors: tuple[GraphTensor, ...]
    operators: tuple[GraphOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def input_tensors(self, operator: GraphOperator) -> list[GraphTensor]:
        """The inputs that an operator has, without the optional ones that are absent."""
        return [self.tensors[place] for place in operator.inputs if place >= 0]

    def output_tensors(self, operator: GraphOperator) -> list[GraphTensor]:
        """The outputs of an operator."""
        return [self.tensors[place] for place in operator.outputs]


@dataclass(frozen=True, slots=True)
class ModelGraphs:
    """A whole file.

    Attributes:
        size_bytes: Size of the file.
        description: Who made it, in its own words.
        graphs: The subgraphs.
        signatures: Place of the subgraph of each signature.
        constant_bytes: Bytes of all constants: weights, biases, shapes.
        signature_names: Per signature, the names of its inputs and of its outputs by tensor.
    """

    size_bytes: int
    description: str
    graphs: tuple[Graph, ...]
    signatures: dict[str, int]
    constant_bytes: int
    signature_names: dict[str, dict[int, str]]

    @property
    def inference(self) -> int:
        """Place of the subgraph of one inference: that of the signature `infer`, or the first one's."""
        return self.signatures.get("infer", min(self.signatures.values(), default=0))

    @property
    def inference_signature(self) -> str:
        """Name of that signature; empty where the file has none."""
        return next((name for name, place in self.signatures.items() if place == self.inference), "")

    @property
    def input_names(self) -> list[str]:
        """The names by which a runtime takes the inputs of one inference, in the file's order."""
        return self._names(self.graphs[self.inference].inputs)

    @property
    def output_names(self) -> list[str]:
        """The names by which a runtime gives the outputs of one inference, in the file's order."""
        return self._names(self.graphs[self.inference].outputs)

    def _names(self, places: tuple[int, ...]) -> list[str]:
        names = self.signature_names.get(self.inference_signature, {})
        tensors = self.graphs[self.inference].tensors
        return [names.get(place, tensors[place].name) for place in places]

    def entries(self) -> dict[str, int]:
        """Place of every subgraph that a caller can run, by signature; `""` where there are none."""
        return self.signatures or {"": 0}

    def reachable(self, place: int) -> tuple[int, ...]:
        """A subgraph and all those that its loops and branches run, each once."""
        found: dict[int, None] = {}
        waiting = [place]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found[here] = None
                waiting += [inner for operator in self.graphs[here].operators for inner in operator.subgraphs]
        return tuple(found)


def read_graphs(source: str | Path | bytes) -> ModelGraphs:
    """Reads a model file as it is, without loading it into a runtime.

    Raises:
        ModelFileError: It is missing, no TFLite flatbuffer, or does not hold together.
    """
    root = read_model(source)
    try:
        return _read(root)
    except (struct.error, IndexError, KeyError, MemoryError, OverflowError) as error:
        raise ModelFileError(
            f"Expected a whole TFLite file, received {shown(source)} of {len(root.data):,} bytes that do not "
            "hold together.",
            remedy="Copy or download the file again, and compare its size with the original's.",
        ) from error


def _read(root: Table) -> ModelGraphs:
    codes = [_code(entry) for entry in root.tables(1)]
    buffers = list(root.tables(4))
    sizes = [_buffer_size(entry) for entry in buffers]
    graphs = tuple(_graph(entry, codes, buffers, sizes) for entry in root.tables(2))
    if not graphs:
        raise ModelFileError("Expected a TFLite file with at least one graph, received one without.")
    signatures = list(root.tables(7))
    model = ModelGraphs(
        size_bytes=len(root.data),
        description=root.text(3),
        graphs=graphs,
        signatures={entry.text(2): entry.scalar(4, "I") for entry in signatures},
        constant_bytes=sum(sizes),
        signature_names={entry.text(2): _names(entry) for entry in signatures},
    )
    inner = (place for graph in graphs for operator in graph.operators for place in operator.subgraphs)
    if any(not 0 <= place < len(graphs) for place in (*inner, *model.signatures.values())):
        raise IndexError
    return model


def _names(signature: Table) -> dict[int, str]:
    entries = [*signature.tables(0), *signature.tables(1)]
    return {entry.scalar(1, "I"): entry.text(0) for entry in entries}


def _code(entry: Table) -> tuple[str, int]:
    number = max(entry.scalar(0, "b"), entry.scalar(3, "i"))
    custom = entry.text(1)
    return f"CUSTOM:{custom}" if custom else operator_name(number), entry.scalar(2, "i", 1)


def _buffer_size(entry: Table) -> int:
    # Large buffers lie behind the flatbuffer: offset and size are fields 1 and 2.
    return entry.size(0) or entry.scalar(2, "Q")


def _graph(entry: Table, codes: list[tuple[str, int]], buffers: list[Table], sizes: list[int]) -> Graph:
    tensors = tuple(_tensor(tensor, buffers, sizes) for tensor in entry.tables(0))
    operators = tuple(_operator(index, operator, codes) for index, operator in enumerate(entry.tables(3)))
    graph = Graph(tensors, operators, entry.integers(1), entry.integers(2))
    optional = (place for operator in operators for place in operator.inputs)
    named = (*graph.inputs, *graph.outputs, *(place for op in operators for place in op.outputs))
    if any(not -1 <= place < len(tensors) for place in optional) or any(
        not 0 <= place < len(tensors) for place in named
    ):
        raise IndexError
    return graph


def _operator(index: int, entry: Table, codes: list[tuple[str, int]]) -> GraphOperator:
    name, version = codes[entry.scalar(0, "I")]
    options = entry.table(4)
    return GraphOperator(
        index=index,
        name=name,
        version=version,
        inputs=entry.integers(1),
        outputs=entry.integers(2),
        options=operator_options(name, options),
        subgraphs=operator_subgraphs(name, options),
        variable=variable_name(name, options),
    )


def _tensor(entry: Table, buffers: list[Table], sizes: list[int]) -> GraphTensor:
    dtype, bits = _TYPES.get(entry.scalar(1, "b"), ("unknown", 0))
    shape = entry.integers(0)
    quantization = entry.table(4)
    buffer = entry.scalar(2, "I")
    elements = math.prod(1 if size < 0 else size for size in shape)
    kept = dtype == "int32" and 0 < sizes[buffer] <= 4 * _KEPT_VALUES and elements * 4 == sizes[buffer]
    content = buffers[buffer].content(0) if kept else b""
    return GraphTensor(
        name=entry.text(3),
        shape=entry.integers(7) or shape,
        dtype=dtype,
        scales=quantization.floats(2) if quantization else (),
        zero_points=quantization.longs(3) if quantization else (),
        constant=sizes[buffer] > 0,
        variable=bool(entry.scalar(5, "b")),
        size_bytes=(elements * bits + 7) // 8,
        values=struct.unpack(f"<{len(content) // 4}i", content),
    )
