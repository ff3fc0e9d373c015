"""Writes TensorFlow Lite's object tree (``ModelT``) with equal parts written once.

A flatbuffer may point to one vector, string or table from many places; the generated code writes each anew.
"""

from __future__ import annotations

from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np

_IDENTIFIER = b"TFL3"
# What the schema asks for; the generated code for Python does not know it.
_BUFFER_ALIGNMENT = 16


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors and strings once."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray[Any, Any]) -> int:  # noqa: N802
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            if x.dtype == np.uint8:
                self.Prep(_BUFFER_ALIGNMENT, x.size)
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]

    def CreateString(self, s: str | bytes, *arguments: Any) -> int:  # noqa: N802
        key = ("string", s.encode() if isinstance(s, str) else bytes(s))
        if key not in self._written:
            self._written[key] = super().CreateString(s, *arguments)
        return self._written[key]


class _Shared:
    """A table that is written once for all that are equal to it."""

    def __init__(self, table: Any, written: dict[Any, int]) -> None:
        self._table = table
        self._written = written
        self._key = (type(table), *map(_comparable, sorted(vars(table).items())))

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        if self._key not in self._written:
            self._written[self._key] = self._table.Pack(builder)
        return self._written[self._key]


def _comparable(field: tuple[str, Any]) -> tuple[str, Any]:
    """A field by its value; one that holds a table is only equal to itself."""
    name, value = field
    if isinstance(value, list | np.ndarray):
        return name, (str(np.asarray(value).dtype), np.asarray(value).tobytes())
    return name, value if isinstance(value, int | float | bytes | str | None) else id(value)


def write(model: Any, *, share_tables: bool = False) -> bytes:
    """Writes an object tree, each buffer aligned to 16 bytes.

    Args:
        model: The ``ModelT``; it is used up.
        share_tables: Equal tensors without names and equal options of operators are written once, too.
    """
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, np.uint8)
    if share_tables:
        written: dict[Any, int] = {}
        for graph in model.subgraphs:
            graph.tensors = [_Shared(tensor, written) for tensor in graph.tensors]
            for operator in graph.operators:
                if operator.builtinOptions is not None:
                    operator.builtinOptions = _Shared(operator.builtinOptions, written)
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
