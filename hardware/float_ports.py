"""Gives a quantized program float inputs and outputs, in memory: the runtime then does the quantizing.

A QUANTIZE operator before each integer input and a DEQUANTIZE behind each output cost a microsecond or two.
The same in numpy costs more than ten, most of it between the arrays and not in them.

In a flatbuffer every reference points forward. What changes is therefore written anew in *front* of the old
bytes, which stay as they are, weights and all: the root table, the first subgraph, the signature, and vectors
that list old and new tables. Numbers of fields and operators are those of TensorFlow Lite's `schema.fbs`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .flatbuffer import Table, read_model

_FLOAT32, _UINT8, _INT8 = 0, 3, 9
_QUANTIZE, _DEQUANTIZE = 114, 6
_DEQUANTIZE_INT8_VERSION = 2
# Buffers of weights lie at multiples of 16 bytes, those that mapped files align at most at 64.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class _Int:
    """A number of 32 bits."""

    value: int


@dataclass(frozen=True, slots=True)
class _Ints:
    """A vector of numbers of 32 bits."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Text:
    """A string."""

    value: bytes


@dataclass(frozen=True, slots=True)
class _Tables:
    """A vector of tables."""

    values: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _New:
    """A table, its fields by number."""

    fields: dict[int, _Node]


@dataclass(frozen=True, slots=True)
class _Old:
    """Something in the old bytes, by its position there."""

    position: int


_Node = _Int | _Ints | _Text | _Tables | _New | _Old


def with_float_ports(source: str | Path | bytes) -> bytes | None:
    """The program with float32 in place of int8 and uint8 at its inputs and outputs.

    Args:
        source: Path or bytes of a model file with one subgraph and at most one signature.

    Returns:
        The bytes of such a program, or None: it has more than that, no quantized input or output, or is
        damaged, which is for the runtime to say.

    Raises:
        ModelFileError: It cannot be read, or is not a TFLite flatbuffer.
    """
    try:
        return _rewritten(source)
    except (struct.error, KeyError):
        return None


def _rewritten(source: str | Path | bytes) -> bytes | None:
    model = read_model(source)
    graphs, signatures = list(model.tables(2)), list(model.tables(7))
    # Weights outside the flatbuffer are found by their distance from the file's start.
    outside = any(buffer.scalar(1, "Q") > 1 for buffer in model.tables(4))
    if len(graphs) != 1 or len(signatures) > 1 or outside or model.size(9):
        return None
    (graph,) = graphs
    tensors = list(graph.tables(0))
    inputs, outputs = graph.integers(1), graph.integers(2)
    inner = {
        index
        for index in (*inputs, *outputs)
        if 0 <= index < len(tensors) and tensors[index].scalar(1, "b") in (_INT8, _UINT8)
        if _is_quantized(tensors[index])
    }
    # A tensor that goes straight from the input to the output needs no operator in between.
    if not inner or set(inputs) & set(outputs):
        return None
    outer = {index: len(tensors) + place for place, index in enumerate(sorted(inner))}
    codes = list(model.tables(1))
    operators: list[_Node] = [
        *(_operator(len(codes), index, outer[index]) for index in dict.fromkeys(inputs) if index in outer),
        *map(_old, graph.tables(3)),
        *(
            _operator(len(codes) + 1, outer[index], index)
            for index in dict.fromkeys(outputs)
            if index in outer
        ),
    ]
    ports = {index: outer.get(index, index) for index in (*inputs, *outputs)}
    new_graph = _New(
        {
            0: _Tables((*map(_old, tensors), *(_float_tensor(tensors[index]) for index in sorted(inner)))),
            1: _Ints(tuple(ports[index] for index in inputs)),
            2: _Ints(tuple(ports[index] for index in outputs)),
            3: _Tables(tuple(operators)),
            **_kept(graph, [4]),
        }
    )
    new_model = _New(
        {
            0: _Int(model.scalar(0, "I")),
            1: _Tables(
                (
                    *map(_old, codes),
                    _operator_code(_QUANTIZE, 1),
                    _operator_code(_DEQUANTIZE, _DEQUANTIZE_INT8_VERSION),
                )
            ),
            2: _Tables((new_graph,)),
            **_kept(model, [3, 4, 5, 6]),
            **({7: _Tables((_signature(signatures[0], ports),))} if signatures else {}),
        }
    )
    return _prepended(new_model, model.data)


def _is_quantized(tensor: Table) -> bool:
    """Whether one scale, of the whole tensor, says what its integers stand for."""
    quantization = tensor.table(4)
    return quantization is not None and len(quantization.floats(2)) == 1


def _float_tensor(tensor: Table) -> _New:
    name = tensor.content(3) + b"_float"
    return _New({**_kept(tensor, [0, 7]), 1: _Int(_FLOAT32), 3: _Text(name)})


def _operator(code: int, output: int, source: int) -> _New:
    return _New({0: _Int(code), 1: _Ints((source,)), 2: _Ints((output,))})


def _operator_code(builtin: int, version: int) -> _New:
    return _New({0: _Int(builtin), 2: _Int(version), 3: _Int(builtin)})


def _signature(signature: Table, ports: dict[int, int]) -> _New:
    inputs, outputs = (
        _Tables(
            tuple(
                _New({**_kept(one, [0]), 1: _Int(ports[one.scalar(1, "I")])})
                for one in signature.tables(field)
            )
        )
        for field in (0, 1)
    )
    return _New({0: inputs, 1: outputs, **_kept(signature, [2])})


def _kept(table: Table, fields: Sequence[int]) -> dict[int, _Node]:
    """What the fields of an old table refer to, where it has them."""
    found = ((field, table.target(field)) for field in fields)
    return {field: _Old(position) for field, position in found if position is not None}


def _old(table: Table) -> _Old:
    return _Old(table.position)


def _prepended(root: _New, old: bytes) -> bytes:
    """Old bytes with a new root in front; every node comes after those that refer to it."""
    front = bytearray(struct.pack("<I4s", 0, b"TFL3"))
    waiting: deque[tuple[int, _Node]] = deque([(0, root)])
    into_old = []
    while waiting:
        place, node = waiting.popleft()
        if isinstance(node, _Old):
            into_old.append((place, node.position))
            continue
        position, references = _append(front, node)
        struct.pack_into("<I", front, place, position - place)
        waiting.extend(references)
    front.extend(bytes(-len(front) % _ALIGNMENT))
    for place, position in into_old:
        struct.pack_into("<I", front, place, len(front) + position - place)
    return bytes(front) + old


def _append(front: bytearray, node: _Node) -> tuple[int, list[tuple[int, _Node]]]:
    """Writes one node; returns its position, and where it refers to which others."""
    if isinstance(node, _New):
        fields = sorted(node.fields.items())
        entries = [0] * (fields[-1][0] + 1)
        for slot, (field, _) in enumerate(fields):
            entries[field] = 4 + 4 * slot
        vtable = struct.pack(f"<{2 + len(entries)}H", 4 + 2 * len(entries), 4 + 4 * len(fields), *entries)
        front.extend(bytes(-(len(front) + len(vtable)) % 4))
        front.extend(vtable)
        position = len(front)
        values = [value.value if isinstance(value, _Int) else 0 for _, value in fields]
        front.extend(struct.pack(f"<i{len(values)}i", len(vtable), *values))
        places = zip(range(position + 4, len(front), 4), (value for _, value in fields), strict=True)
        return position, [(place, value) for place, value in places if not isinstance(value, _Int)]
    position = len(front)
    if isinstance(node, _Tables):
        front.extend(struct.pack(f"<I{len(node.values)}i", len(node.values), *[0] * len(node.values)))
        return position, list(zip(range(position + 4, len(front), 4), node.values, strict=True))
    if isinstance(node, _Ints):
        front.extend(struct.pack(f"<I{len(node.values)}i", len(node.values), *node.values))
    elif isinstance(node, _Text):
        text = node.value + bytes(4 - len(node.value) % 4)
        front.extend(struct.pack("<I", len(node.value)) + text)
    return position, []
