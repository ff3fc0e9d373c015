"""What the converter leaves wrong in a file with fused LSTMs, put right in place.

Three things, each found by comparing with Keras:

* The operator clips its cell state at 10; Keras does not.
* In an int8 file the output, the output state and the intermediate `hidden` tensor are the same numbers: the
  kernel computes with the quantization of `hidden` and copies the bytes. The converter calibrates the three
  apart, and gives the output that of a concatenation behind it; where they differ, bidirectional LSTMs
  answered wrongly.
* The bytes of the initial state are left in buffers that no tensor uses, filled with whatever the converter's
  memory held: two conversions gave two files.

Only bytes that are there already are overwritten: nothing moves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tensorflow.lite.python import schema_py_generated as schema

_LSTM_OPTIONS = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
# Inputs and intermediates of the operator: tensorflow/lite/kernels/unidirectional_sequence_lstm.cc.
_OUTPUT_STATE, _HIDDEN = 18, 4
# Places of the fields in their flatbuffer tables: tensorflow/lite/schema/schema.fbs.
_CELL_CLIP, _SCALE, _ZERO_POINT, _DATA = 6, 8, 10, 4


def has_fused_lstm(data: bytes) -> bool:
    """Whether a `.tflite` has a fused LSTM, which keeps its state from one run to the next."""
    return any(True for _ in _lstms(schema.Model.GetRootAs(data, 0)))


def repair(data: bytes) -> bytes:
    """The same file, with fused LSTMs that compute what Keras does and no memory of the converter."""
    edited = bytearray(data)
    model = schema.Model.GetRootAs(data, 0)
    for graph, operator in _lstms(model):
        options = operator.BuiltinOptions()
        offset = options.Offset(_CELL_CLIP)
        if offset:
            struct.pack_into("<f", edited, options.Pos + offset, 0.0)
        is_int8 = graph.Tensors(operator.Outputs(0)).Type() == schema.TensorType.INT8
        if is_int8 and operator.IntermediatesLength() > _HIDDEN:
            state = graph.Tensors(operator.Inputs(_OUTPUT_STATE))
            hidden = graph.Tensors(operator.Intermediates(_HIDDEN))
            _copy_quantization(edited, graph.Tensors(operator.Outputs(0)), (state, hidden))
    _clear_unused_buffers(edited, model)
    return bytes(edited)


def _lstms(model: Any) -> Iterator[tuple[Any, Any]]:
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for j in range(graph.OperatorsLength()):
            operator = graph.Operators(j)
            if operator.BuiltinOptionsType() == _LSTM_OPTIONS:
                yield graph, operator


def _copy_quantization(edited: bytearray, output: Any, others: tuple[Any, ...]) -> None:
    quantization = output.Quantization()
    for tensor in others:
        table = tensor.Quantization()._tab
        struct.pack_into("<f", edited, table.Vector(table.Offset(_SCALE)), quantization.Scale(0))
        struct.pack_into("<q", edited, table.Vector(table.Offset(_ZERO_POINT)), quantization.ZeroPoint(0))


def _clear_unused_buffers(edited: bytearray, model: Any) -> None:
    used = {model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        used |= {graph.Tensors(j).Buffer() for j in range(graph.TensorsLength())}
    for i in set(range(model.BuffersLength())) - used:
        table = model.Buffers(i)._tab
        offset = table.Offset(_DATA)
        if offset:
            start, size = table.Vector(offset), table.VectorLen(offset)
            edited[start : start + size] = bytes(size)
