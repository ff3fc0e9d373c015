"""The finishing touches on a converted file: signature names, shared buffers, a description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow.lite.python import schema_py_generated as schema

from .. import flatbuffer_writer

METADATA_NAME = "hedgerow.trainable"


def read(content: bytes) -> Any:
    """Parses a ``.tflite`` file into TensorFlow Lite's object tree (``ModelT``)."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def write(model: Any) -> bytes:
    """Writes an object tree back."""
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            scale = None if tensor.quantization is None else tensor.quantization.scale
            if scale is None or len(scale) == 0:
                tensor.quantization = None
    return flatbuffer_writer.write(model, share_tables=True)


def rename_weights(model: Any, names: Mapping[str, str]) -> None:
    """Renames the inputs and outputs of get_weights and set_weights from ``w0`` to Keras paths.

    Keras paths contain characters that a function's argument cannot.
    """
    for signature in model.signatureDefs:
        if signature.signatureKey.decode() in ("get_weights", "set_weights"):
            for tensor in [*(signature.inputs or []), *(signature.outputs or [])]:
                tensor.name = names.get(tensor.name.decode(), tensor.name.decode())


def share_buffers(model: Any) -> None:
    """Stores equal constants once, however many signatures and variables start from them.

    What has no constant has buffer 0, as the schema says.
    """
    kept: dict[bytes, int] = {}
    target = [0] * len(model.buffers)
    for index, buffer in enumerate(model.buffers):
        if index and buffer.data is not None and len(buffer.data):
            target[index] = kept.setdefault(bytes(buffer.data), index)
    used = sorted({0, *(target[index] for index in _used_buffers(model))})
    place = {old: new for new, old in enumerate(used)}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = place[target[tensor.buffer]]
    for entry in model.metadata or []:
        entry.buffer = place[target[entry.buffer]]
    model.buffers = [model.buffers[index] for index in used]


def drop_names(model: Any) -> None:
    """Drops the names of inner tensors, which in an unrolled recurrence outweigh the graph itself.

    Inputs and outputs have theirs in the signature; in the graph they are called by their number.
    """
    for subgraph in model.subgraphs:
        kept = {*subgraph.inputs, *subgraph.outputs}
        for index, tensor in enumerate(subgraph.tensors):
            tensor.name = str(index) if index in kept else None


def describe(model: Any, description: bytes) -> None:
    """Adds the description that the device reads, as the metadata ``hedgerow.trainable``."""
    buffer = schema.BufferT()
    buffer.data = list(description)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]


def _used_buffers(model: Any) -> set[int]:
    used = {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors}
    return used | {entry.buffer for entry in model.metadata or []}
