"""A quantized file with equal vectors stored once and names of one word.

A tensor that is quantized per channel has a scale of 4 bytes and a zero point of 8 for every channel, and its
bias has them again: in a small network a quarter of the file. Nearly all zero points are the same zeros. A
flatbuffer may point to one vector from many places, but the converter writes each anew. It also names a
tensor after every operation that went into it: in a DS-CNN a ninth of the file.
"""

from __future__ import annotations

from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

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


def compact(content: bytes) -> bytes:
    """The same model in fewer bytes, each buffer aligned to 16 bytes.

    Args:
        content: A ``.tflite`` file.

    Returns:
        A file with the same tensors and operators; the one that came in where that is shorter. Of a name like
        `relu/Relu;norm/mul;conv/convolution` the first word stays, of a constant's the shortest.
    """
    model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    for graph in model.subgraphs:
        _shorten_names(graph, model.buffers)
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, np.uint8)
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    written = bytes(builder.Output())
    return written if len(written) < len(content) else content


def _shorten_names(graph: schema.SubGraphT, buffers: list[schema.BufferT]) -> None:
    """Names each tensor after one of the operations that went into it, which no other is named after."""
    taken = {tensor.name for tensor in graph.tensors}
    constants = [tensor for tensor in graph.tensors if buffers[tensor.buffer].data is not None]
    results = [tensor for tensor in graph.tensors if buffers[tensor.buffer].data is None]
    for tensor in (*results, *constants):
        words = [word for word in tensor.name.split(b";") if word and word not in taken]
        if words:
            tensor.name = words[0] if tensor in results else min(words, key=len)
            taken.add(tensor.name)
