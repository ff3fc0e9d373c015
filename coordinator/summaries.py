"""Scalars per round in the event files that TensorBoard reads, without TensorFlow in the daemon.

An event file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h: length, its masked CRC-32C,
bytes, their masked CRC-32C), each an `Event` message (tensorflow/core/util/event.proto).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

from .events import Event, RoundEnded

_POLYNOMIAL = 0x82F63B78


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecords want it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, data: bytes) -> bytes:
    """A field of protobuf's wire type 2: its length and its bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _event(wall_time: float, *, step: int = 0, body: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + body


class RoundSummaries:
    """A listener that writes one point per round.

    Every start of the coordinator begins a file of its own; TensorBoard shows a folder's files as one curve.

    Args:
        folder: Made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.hedgerow"
        self._append(_event(now, body=_field(3, b"brain.Event:2")))

    def __call__(self, event: Event) -> None:
        """Writes a round that has ended."""
        if not isinstance(event, RoundEnded):
            return
        record = event.record
        values = {
            "devices/loss": record.device_loss,
            "devices/accuracy": record.device_accuracy,
            "held_out/loss": record.held_out_loss,
            "held_out/accuracy": record.held_out_accuracy,
            "round/devices": float(record.devices),
            "round/seconds": record.seconds,
            "round/megabytes_down": record.bytes_down / 1e6,
            "round/megabytes_up": record.bytes_up / 1e6,
        }
        self.scalars({tag: value for tag, value in values.items() if value is not None}, step=record.round)

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Writes one value for each tag at a step."""
        summary = b"".join(
            _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
            for tag, value in values.items()
        )
        self._append(_event(time.time(), step=step, body=_field(5, summary)))

    def _append(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(_record(data))
