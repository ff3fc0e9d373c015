"""Flower's records as bytes: arrays as safetensors, everything else as JSON in the file's metadata.

A `RecordDict` becomes one safetensors file. Its tensors are named "0", "1", ... in the records' order; the
metadata's entry `flower` is a JSON list with an object for each record: its `name`, and `arrays`, `metrics`
or `config`. What JSON lacks is `{"float": "nan"}` and `{"bytes": "<base64>"}`. An array that numpy or
safetensors cannot hold is a tensor of its bytes, and its entry says what they are. No pickle.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import TensorsError

ENTRY = "flower"
NUM_EXAMPLES = "num-examples"
NUMPY = "numpy.ndarray"
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NATIVE = frozenset(np.dtype(dtype).str for dtype in DTYPES.values())
_PREFIX_BYTES = 8
# What safetensors, msgspec and Flower's records raise at bytes that somebody else has made.
_UNREADABLE = (
    SafetensorError,
    msgspec.MsgspecError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class _ArrayEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One array; `stype`, `dtype` and `shape` only of one whose tensor holds its bytes."""

    name: str
    stype: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


class _RecordEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record: exactly one of the three is there."""

    name: str
    arrays: list[_ArrayEntry] | None = None
    metrics: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


class StoredArray(Array):
    """An array that is read from its file each time it is asked for.

    Flower's strategies hold all replies of a round: so held, a hundred of them need the memory of one.

    Args:
        path: The file.
        offset: Where the array's bytes begin.
        dtype: Of its numbers.
        shape: Its shape.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.stype = str(dtype), shape, NUMPY
        self._path, self._offset = path, offset

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array as numpy's file format, as every `Array` has it."""
        return Array(self.numpy()).data

    def numpy(self) -> NDArray[Any]:
        """The array."""
        count = math.prod(self.shape)
        flat = np.fromfile(self._path, np.dtype(self.dtype), count, offset=self._offset)
        return flat.reshape(self.shape)


def encode(records: RecordDict) -> bytes:
    """A message's content, or an app's state, as safetensors bytes."""
    tensors: dict[str, NDArray[Any]] = {}
    entries = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            arrays = []
            for key, array in record.items():
                entry, tensors[str(len(tensors))] = _split(key, array)
                arrays.append(entry)
            entries.append(_RecordEntry(name, arrays=arrays))
        else:
            values = {key: _to_json(value) for key, value in record.items()}
            metrics = isinstance(record, MetricRecord)
            entries.append(
                _RecordEntry(name, metrics=values) if metrics else _RecordEntry(name, config=values)
            )
    return save(tensors, {ENTRY: msgspec.json.encode(entries).decode()})


def decode(data: bytes) -> RecordDict:
    """What `encode` wrote.

    Raises:
        TensorsError: The bytes are something else.
    """
    try:
        tensors = load(data)
        header = json.loads(data[_PREFIX_BYTES : _PREFIX_BYTES + int.from_bytes(data[:8], "little")])
        strange = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} - DTYPES.keys()
        if strange:
            raise ValueError(f"tensors of the types {sorted(strange)}")
        return _join(header, lambda name: tensors[name], lambda name: Array(tensors[name]))
    except _UNREADABLE as error:
        raise TensorsError(
            f"Expected the records of a Flower message, received {len(data)} bytes that are none: {error}."
        ) from error


def open_file(path: Path) -> RecordDict:
    """The records in a file that `decode` has read before; its arrays stay on disk until asked for."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_PREFIX_BYTES), "little")
        header = json.loads(file.read(length))

    def array(name: str) -> StoredArray:
        entry = header[name]
        offset = _PREFIX_BYTES + length + entry["data_offsets"][0]
        return StoredArray(path, offset, np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]))

    return _join(header, lambda name: array(name).numpy(), array)


def signature(records: RecordDict) -> tuple[Any, ...]:
    """What all replies of a round must share for Flower's strategies: names, shapes, dtypes, metrics.

    Bytes may differ in length: boosted trees travel as such. A metric is a number in all of them, or a list.
    """
    return tuple(
        (name, tuple((key, a.dtype, a.dtype != "uint8" and tuple(a.shape)) for key, a in record.items()))
        if isinstance(record, ArrayRecord)
        else (name, type(record).__name__, tuple(sorted((k, type(v) is list) for k, v in record.items())))
        for name, record in records.items()
        if not isinstance(record, ConfigRecord)
    )


def spoilt_arrays(records: RecordDict) -> Iterable[str]:
    """The names of arrays with NaN or infinity in them."""
    for record in records.array_records.values():
        for key, array in record.items():
            if array.stype == NUMPY and np.dtype(array.dtype).kind == "f":
                value = array.numpy()
                if not np.isfinite(value).all():
                    yield key


def counts(records: RecordDict) -> Iterable[float]:
    """By how many examples a reply is to count, as Flower's strategies weigh it unless told otherwise."""
    for record in records.metric_records.values():
        value = record.get(NUM_EXAMPLES)
        if isinstance(value, int | float):
            yield float(value)


def numbers(records: RecordDict) -> dict[str, float]:
    """The plain finite numbers of the first MetricRecord, for people who watch."""
    record = next(iter(records.metric_records.values()), MetricRecord())
    plain = {key: float(value) for key, value in record.items() if isinstance(value, int | float)}
    return {key: value for key, value in plain.items() if math.isfinite(value)}


def _split(key: str, array: Array) -> tuple[_ArrayEntry, NDArray[Any]]:
    if array.stype == NUMPY:
        value = array.numpy()
        if value.dtype.str in _NATIVE:
            return _ArrayEntry(key), np.asarray(value, order="C")
    raw = np.frombuffer(array.data, np.uint8)
    return _ArrayEntry(key, stype=array.stype, dtype=array.dtype, shape=tuple(array.shape)), raw


def _join(header: dict[str, Any], read: Any, make: Any) -> RecordDict:
    entries = msgspec.json.decode(header["__metadata__"][ENTRY], type=list[_RecordEntry])
    records, number = RecordDict(), 0
    for entry in entries:
        if entry.arrays is not None:
            # Given a dictionary, ArrayRecord would read every array and copy it.
            arrays = ArrayRecord()
            for array in entry.arrays:
                name = str(number)
                number += 1
                if array.stype:
                    data = np.asarray(read(name), np.uint8).tobytes()
                    arrays[array.name] = Array(array.dtype, array.shape, array.stype, data)
                else:
                    arrays[array.name] = make(name)
            records[entry.name] = arrays
        elif entry.metrics is not None:
            records[entry.name] = MetricRecord({k: _from_json(v) for k, v in entry.metrics.items()})
        else:
            records[entry.name] = ConfigRecord({k: _from_json(v) for k, v in (entry.config or {}).items()})
    return records


def _to_json(value: Any) -> Any:
    match value:
        case bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case _:
            return [_to_json(item) for item in value]


def _from_json(value: Any) -> Any:
    match value:
        case {"float": str(text)}:
            return float(text)
        case {"bytes": str(text)}:
            return base64.b64decode(text, validate=True)
        case list():
            return [_from_json(item) for item in value]
        case _:
            return value
