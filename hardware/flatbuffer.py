"""Reading a ``.tflite`` file without a runtime, TensorFlow or the flatbuffers package.

A flatbuffer is a tree of tables that are read in place: a table starts with the distance to its vtable,
which gives, per field, the field's distance from the table. Field numbers are those of TensorFlow Lite's
``schema.fbs``, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelFileError

_IDENTIFIER = b"TFL3"


@dataclass(frozen=True, slots=True)
class Table:
    """A table inside a buffer.

    Attributes:
        data: The whole file.
        position: Where the table starts.
    """

    data: bytes
    position: int

    def scalar(self, field: int, code: str, default: int = 0) -> int:
        """A number; ``code`` is its ``struct`` format."""
        place = self._place(field)
        return default if place is None else int(struct.unpack_from("<" + code, self.data, place)[0])

    def target(self, field: int) -> int | None:
        """The position of what a field refers to."""
        place = self._place(field)
        return None if place is None else self._follow(place)

    def table(self, field: int) -> Table | None:
        """A table that this one points to."""
        position = self.target(field)
        return None if position is None else Table(self.data, position)

    def tables(self, field: int) -> Iterator[Table]:
        """The tables of a vector of tables."""
        place = self._place(field)
        if place is None:
            return
        start, count = self._vector(place, 4)
        for index in range(count):
            yield Table(self.data, self._follow(start + 4 + 4 * index))

    def integers(self, field: int) -> tuple[int, ...]:
        """A vector of 32-bit integers."""
        return self._numbers(field, "i", 4)

    def floats(self, field: int) -> tuple[float, ...]:
        """A vector of 32-bit floating-point numbers."""
        return self._numbers(field, "f", 4)

    def longs(self, field: int) -> tuple[int, ...]:
        """A vector of 64-bit integers."""
        return self._numbers(field, "q", 8)

    def content(self, field: int) -> bytes:
        """A vector of bytes, or a string."""
        place = self._place(field)
        if place is None:
            return b""
        start, count = self._vector(place, 1)
        return self.data[start + 4 : start + 4 + count]

    def text(self, field: int) -> str:
        """A string; bytes that are no UTF-8 are replaced."""
        return self.content(field).decode(errors="replace")

    def size(self, field: int) -> int:
        """The number of elements of a vector."""
        place = self._place(field)
        return 0 if place is None else self._vector(place, 1)[1]

    def _numbers(self, field: int, code: str, width: int) -> tuple[Any, ...]:
        place = self._place(field)
        if place is None:
            return ()
        start, count = self._vector(place, width)
        return struct.unpack_from(f"<{count}{code}", self.data, start + 4)

    def _vector(self, place: int, width: int) -> tuple[int, int]:
        """Where a vector of elements of `width` bytes starts, and their number; all are in the buffer."""
        start = self._follow(place)
        count = self._uint(start)
        if start + 4 + count * width > len(self.data):
            raise ModelFileError("Expected a whole TFLite file, received one that ends in the middle.")
        return start, count

    def _place(self, field: int) -> int | None:
        vtable = self.position - struct.unpack_from("<i", self.data, self.position)[0]
        if vtable < 0:
            raise ModelFileError("Expected a whole TFLite file, received one with a table before its start.")
        entry = 4 + 2 * field
        if entry >= struct.unpack_from("<H", self.data, vtable)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, vtable + entry)[0]
        return self.position + offset if offset else None

    def _follow(self, place: int) -> int:
        return place + self._uint(place)

    def _uint(self, place: int) -> int:
        return int(struct.unpack_from("<I", self.data, place)[0])


def read_model(source: str | Path | bytes) -> Table:
    """The root table of a model file.

    Raises:
        ModelFileError: It cannot be read, or is not a TFLite flatbuffer.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"Cannot read {str(source)!r}: {error.strerror}.", remedy="Check the path and its permissions."
        ) from error
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise ModelFileError(
            f"Expected a TFLite flatbuffer (identifier TFL3), received {shown(source)} with {data[4:8]!r}.",
            remedy="Check that it is a .tflite file and was copied whole.",
        )
    return Table(data, struct.unpack_from("<I", data, 0)[0])


def shown(source: str | Path | bytes) -> str:
    """What a message calls a file: its name where it has one."""
    return "bytes" if isinstance(source, bytes) else repr(Path(source).name)


def read_metadata(source: str | Path | bytes, name: str) -> bytes | None:
    """The content of a metadata entry, or None where the file has none of that name."""
    model = read_model(source)
    buffers = list(model.tables(4))
    for entry in model.tables(6):
        if entry.text(0) == name:
            return buffers[entry.scalar(1, "I")].content(0)
    return None
