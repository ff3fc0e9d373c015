"""A model file as its operators and tensors, read without a runtime: what `check` and `inspect` look at."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelFileError
from .flatbuffer import Table, read_model
from .operators import operator_name

_TYPES = {
    0: ("float32", 32),
    1: ("float16", 16),
    2: ("int32", 32),
    3: ("uint8", 8),
    4: ("int64", 64),
    5: ("string", 0),
    6: ("bool", 8),
    7: ("int16", 16),
    8: ("complex64", 64),
    9: ("int8", 8),
    10: ("float64", 64),
    11: ("complex128", 128),
    12: ("uint64", 64),
    13: ("resource", 0),
    14: ("variant", 0),
    15: ("uint32", 32),
    16: ("uint16", 16),
    17: ("int4", 4),
}


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
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    constant: bool
    variable: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GraphOperator:
    """An operator of a graph.

    Attributes:
        index: Its place in the order of execution.
        name: TFLite's name, or the custom operator's own with `CUSTOM:` before it.
        version: Version of its kernel.
        inputs: Places of its input tensors; optional ones that are absent are left out.
        outputs: Places of its outputs.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """One subgraph: the first is the model, the others are bodies of loops or other signatures."""

    tensors: tuple[GraphTensor, ...]
    operators: tuple[GraphOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelGraphs:
    """A whole file.

    Attributes:
        size_bytes: Size of the file.
        description: Who made it, in its own words.
        graphs: The subgraphs.
        signatures: Place of the subgraph of each signature.
        constant_bytes: Bytes of all constants: weights, biases, shapes.
    """

    size_bytes: int
    description: str
    graphs: tuple[Graph, ...]
    signatures: dict[str, int]
    constant_bytes: int


def read_graphs(source: str | Path | bytes) -> ModelGraphs:
    """Reads every operator and tensor of a `.tflite`.

    Raises:
        ModelFileError: The file is missing, is no TFLite flatbuffer, or is damaged.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ModelFileError(f"Cannot read {str(source)!r}: {error.strerror}.") from error
    try:
        return _read(data)
    except (struct.error, IndexError, UnicodeDecodeError, KeyError, MemoryError) as error:
        raise ModelFileError(
            f"Expected a whole TFLite file, received {len(data)} bytes that do not hold together."
        ) from error


def _read(data: bytes) -> ModelGraphs:
    root = read_model(data)
    codes = [_code(entry) for entry in root.tables(1)]
    sizes = [_buffer_size(entry) for entry in root.tables(4)]
    graphs = tuple(_graph(entry, codes, sizes) for entry in root.tables(2))
    if not graphs:
        raise ModelFileError("Expected a TFLite file with at least one graph, received one without.")
    return ModelGraphs(
        size_bytes=len(data),
        description=root.text(3),
        graphs=graphs,
        signatures={entry.text(2): entry.scalar(4, "I") for entry in root.tables(7)},
        constant_bytes=sum(sizes),
    )


def _code(entry: Table) -> tuple[str, int]:
    number = max(entry.scalar(0, "b"), entry.scalar(3, "i"))
    custom = entry.text(1)
    return f"CUSTOM:{custom}" if custom else operator_name(number), entry.scalar(2, "i", 1)


def _buffer_size(entry: Table) -> int:
    # Large buffers lie behind the flatbuffer: offset and size are fields 1 and 2.
    return entry.size(0) or entry.scalar(2, "Q")


def _graph(entry: Table, codes: list[tuple[str, int]], sizes: list[int]) -> Graph:
    tensors = tuple(_tensor(tensor, sizes) for tensor in entry.tables(0))
    operators = []
    for index, operator in enumerate(entry.tables(3)):
        name, version = codes[operator.scalar(0, "I")]
        inputs = tuple(place for place in operator.integers(1) if place >= 0)
        outputs = operator.integers(2)
        if any(place >= len(tensors) for place in (*inputs, *outputs)):
            raise IndexError
        operators.append(GraphOperator(index, name, version, inputs, outputs))
    return Graph(tensors, tuple(operators), entry.integers(1), entry.integers(2))


def _tensor(entry: Table, sizes: list[int]) -> GraphTensor:
    dtype, bits = _TYPES.get(entry.scalar(1, "b"), ("unknown", 0))
    shape = entry.integers(0)
    quantization = entry.table(4)
    return GraphTensor(
        name=entry.text(3),
        shape=entry.integers(7) or shape,
        dtype=dtype,
        scales=quantization.floats(2) if quantization else (),
        zero_points=quantization.longs(3) if quantization else (),
        constant=sizes[entry.scalar(2, "I")] > 0,
        variable=bool(entry.scalar(5, "b")),
        size_bytes=(math.prod(max(1, size) for size in shape) * bits + 7) // 8,
    )
