"""How many samples the device has, told without numpy."""

from __future__ import annotations

import ast
import contextlib
import sqlite3
import struct
import zipfile
from pathlib import Path

from .sample_policy import STORE_NAME, Split


def count_samples(folder: Path, split: Split) -> int:
    """The samples of one split in a samples folder; 0 where there are none that can be read."""
    if (folder / STORE_NAME).exists():
        return _count_rows(folder / STORE_NAME, split)
    return _count_labels(folder / f"{split}.npz")


def count_added(folder: Path) -> int | None:
    """How many samples were ever added to the store in a samples folder; None without a store."""
    path = folder / STORE_NAME
    if not path.exists():
        return None
    return _ask(path, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'samples'")


def _count_rows(path: Path, split: Split) -> int:
    return _ask(path, "SELECT count(*) FROM samples WHERE split = ?", split)


def _ask(path: Path, question: str, *values: str) -> int:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (count,) = database.execute(question, values).fetchone()
    except sqlite3.Error:
        return 0
    return int(count)


def _count_labels(path: Path) -> int:
    """The first size of the array `y` in an .npz file, from the header of its member (numpy.lib.format)."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("y.npy") as member:
            magic, major, _ = struct.unpack("<6sBB", member.read(8))
            length = struct.unpack("<H" if major == 1 else "<I", member.read(2 if major == 1 else 4))[0]
            shape = ast.literal_eval(member.read(min(length, 4096)).decode("latin1"))["shape"]
        return int(shape[0]) if magic == b"\x93NUMPY" and shape else 0
    except (OSError, ValueError, KeyError, SyntaxError, TypeError, struct.error, zipfile.BadZipFile):
        return 0
