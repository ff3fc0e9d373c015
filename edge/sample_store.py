"""The device's own samples: bounded on disk, durable, and never anywhere else.

One SQLite file that the agent and the user's programs share. Which split a sample belongs to follows from its
bytes: it never changes, and the same sample cannot be trained on and tested with. Which samples stay when the
store is full follows from a random number drawn for each: the largest ones stay. That is a uniform sample of
all that were ever added (reservoir sampling by keys: Efraimidis and Spirakis, 2006, with equal weights), and
needs no counter that several processes would have to share.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import SamplesError
from .database import open_database, transaction
from .sample_cipher import Cipher, NoCipher
from .sample_policy import STORE_NAME, SamplePolicy, Split
from .samples import Samples, input_names

_TABLES = """
CREATE TABLE IF NOT EXISTS layout (name TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS samples (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    split TEXT NOT NULL,
    class BLOB NOT NULL,
    key INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    x BLOB NOT NULL,
    y BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_class ON samples (split, class, key, bytes);
"""

Example = dict[str, NDArray[Any]]
"""The inputs of one sample by name: `x`, or `x0`, `x1` and so on; on the disk one after the other."""
_REMEDY = "Give every sample the same shape and type, or forget the old ones first."


class SampleStore:
    """Samples on disk. A context manager; several processes and threads may use one folder at once.

    Args:
        folder: Made if missing.
        policy: What to keep.

    Raises:
        SamplesError: The disk cannot be written.
    """

    def __init__(self, folder: Path, *, policy: SamplePolicy | None = None) -> None:
        self._path = folder / STORE_NAME
        self._policy = policy or SamplePolicy()
        self._lock = threading.Lock()
        with self._translated():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._cipher = Cipher.of_device(folder) if self._policy.encrypted else NoCipher()
            self._database = open_database(self._path, _TABLES, salvage=_salvage)
            self._database.execute("PRAGMA secure_delete=ON")

    def add(self, x: ArrayLike | Mapping[str, ArrayLike], y: ArrayLike) -> None:
        """Keeps one sample, or lets the policy choose another one. Durable on return.

        Args:
            x: An example; all of one store have the same shape and type. For a model with several inputs,
                an array for each by `x0`, `x1` and so on, in the model's order.
            y: Its label, or any array of the same shape and type for all.

        Raises:
            SamplesError: It has another shape or type than those before, is not finite, or the disk failed.
        """
        self.add_many({name: [one] for name, one in x.items()} if isinstance(x, Mapping) else [x], [y])

    def add_many(
        self,
        x: Sequence[ArrayLike] | NDArray[Any] | Mapping[str, Sequence[ArrayLike] | NDArray[Any]],
        y: Sequence[ArrayLike] | NDArray[Any],
    ) -> None:
        """Keeps samples as `add` does: all of them, or, when this raises, none."""
        pairs = [
            ({name: _checked(name, array) for name, array in example.items()}, _checked("y", label))
            for example, label in _examples(x, y)
        ]
        with self._lock, self._translated(), transaction(self._database) as database:
            for example, label in pairs:
                self._check_layout(database, {**example, "y": label})
                self._insert(database, example, label)
            for split in ("train", "test"):
                self._shrink(database, split)

    def load(self, split: Split) -> Samples:
        """Every sample of one split, oldest first, as they are at this moment.

        Raises:
            SamplesError: There are none, or they cannot be read.
        """
        with self._lock, self._translated():
            layout = {
                name: (np.dtype(dtype), tuple(msgspec.json.decode(shape, type=list[int])))
                for name, dtype, shape in self._database.execute("SELECT * FROM layout")
            }
            rows = self._database.execute(
                "SELECT number, x, y FROM samples WHERE split = ? ORDER BY number", (split,)
            ).fetchall()
        if not rows:
            raise SamplesError(f"Expected samples to {split} with in {self._path}, received none.")
        arrays = {name: np.empty((len(rows), *shape), dtype) for name, (dtype, shape) in layout.items()}
        inputs = input_names(layout)
        for index, (_, x, y) in enumerate(rows):
            parts = _cut(self._cipher.open(x), [arrays[name][index] for name in inputs])
            for name, part in zip(inputs, parts, strict=True):
                arrays[name][index] = part
            dtype, shape = layout["y"]
            arrays["y"][index] = np.frombuffer(self._cipher.open(y), dtype).reshape(shape)
        return Samples.of(arrays)

    def count(self, split: Split) -> int:
        """How many samples a split has."""
        with self._lock, self._translated():
            (count,) = self._database.execute(
                "SELECT count(*) FROM samples WHERE split = ?", (split,)
            ).fetchone()
        return int(count)

    def added(self) -> int:
        """How many samples were ever added, kept or not."""
        with self._lock, self._translated():
            row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'samples'").fetchone()
        return int(row[0]) if row else 0

    def forget(self) -> None:
        """Erases every sample, overwriting it on disk, and the key that could have read it."""
        with self._lock, self._translated():
            with transaction(self._database) as database:
                database.execute("DELETE FROM samples")
                database.execute("DELETE FROM layout")
                self._cipher.renew()
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_layout(self, database: sqlite3.Connection, arrays: Example) -> None:
        layout = {
            name: (array.dtype.str, msgspec.json.encode(array.shape).decode())
            for name, array in arrays.items()
        }
        kept = {name: tuple(row) for name, *row in database.execute("SELECT * FROM layout")}
        if not kept:
            rows = [(name, *row) for name, row in layout.items()]
            database.executemany("INSERT INTO layout VALUES (?, ?, ?)", rows)
        elif kept.keys() != layout.keys():
            raise SamplesError(
                f"Expected the arrays {', '.join(sorted(kept))} as before, received "
                f"{', '.join(sorted(layout))}.",
                remedy=_REMEDY,
            )
        for name in kept:
            if kept[name] != layout[name]:
                raise SamplesError(
                    f"Expected {name!r} of type {kept[name][0]} and shape {kept[name][1]} as before,"
                    f" received {layout[name][0]} and {layout[name][1]}.",
                    remedy=_REMEDY,
                )

    def _insert(self, database: sqlite3.Connection, x: Example, y: NDArray[Any]) -> None:
        data, label = b"".join(array.tobytes() for array in x.values()), y.tobytes()
        digest = hashlib.sha256(data + label).digest()
        split = "test" if int.from_bytes(digest[:4], "big") < self._policy.test_fraction * 2**32 else "train"
        # Labels of floats are targets, not classes.
        group = self._cipher.digest(label) if y.dtype.kind in "iub" and y.ndim == 0 else b""
        sealed = self._cipher.seal(data), self._cipher.seal(label)
        size = len(sealed[0]) + len(sealed[1])
        database.execute(
            "INSERT INTO samples (split, class, key, bytes, x, y) VALUES (?, ?, ?, ?, ?, ?)",
            (split, group, secrets.randbits(62), size, *sealed),
        )

    def _shrink(self, database: sqlite3.Connection, split: Split) -> None:
        """Removes samples until the split is within its share; one may always stay."""
        share, policy = self._policy.share(split), self._policy
        count_limit, size_limit = policy.limit * share, policy.limit_mib * share * 2**20
        count, size = database.execute(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM samples WHERE split = ?", (split,)
        ).fetchone()
        while count > 1 and (count > count_limit or size > size_limit):
            number, freed = self._dispensable(database, split)
            database.execute("DELETE FROM samples WHERE number = ?", (number,))
            count, size = count - 1, size - freed

    def _dispensable(self, database: sqlite3.Connection, split: Split) -> tuple[int, int]:
        """The number and the bytes of the sample that the policy gives up first."""
        where, values = "split = ?", [split]
        if self._policy.balance:
            (largest,) = database.execute(
                "SELECT class FROM samples WHERE split = ? GROUP BY class"
                " ORDER BY count(*) DESC, max(number) DESC LIMIT 1",
                (split,),
            ).fetchone()
            where, values = "split = ? AND class = ?", [split, largest]
        order = "number" if self._policy.keep == "newest" else "key"
        row: tuple[int, int] = database.execute(
            f"SELECT number, bytes FROM samples WHERE {where} ORDER BY {order} LIMIT 1", values
        ).fetchone()
        return row

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise SamplesError(
                f"Expected to read and write {self._path}, received: {error}.",
                remedy="Check that the disk has room and works.",
            ) from error


def _examples(
    x: Sequence[ArrayLike] | NDArray[Any] | Mapping[str, Sequence[ArrayLike] | NDArray[Any]],
    y: Sequence[ArrayLike] | NDArray[Any],
) -> Iterator[tuple[dict[str, ArrayLike], ArrayLike]]:
    """Each example's inputs by name, in the model's order, with its label."""
    columns: dict[str, Any] = dict(x) if isinstance(x, Mapping) else {"x": x}
    names = input_names(columns)
    if set(names) != set(columns):
        raise SamplesError(
            f"Expected the inputs of a sample by 'x', or by 'x0', 'x1' and so on, received "
            f"{', '.join(map(repr, columns)) or 'none'}.",
            remedy="Name them in the order of the model's inputs.",
        )
    for *arrays, label in zip(*(columns[name] for name in names), y, strict=True):
        yield dict(zip(names, arrays, strict=True)), label


def _cut(data: bytes, likes: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The arrays whose bytes stand one after the other, each of the shape and type of its `like`."""
    start = 0
    for like in likes:
        yield np.frombuffer(data, like.dtype, like.size, start).reshape(like.shape)
        start += like.nbytes


def _checked(name: str, value: ArrayLike) -> NDArray[Any]:
    array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise SamplesError(f"Expected numbers as {name!r}, received {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SamplesError(f"Expected finite numbers as {name!r}, received NaN or infinity.")
    if array.size == 0:
        raise SamplesError(f"Expected a sample with values in {name!r}, received shape {array.shape}.")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _salvage(damaged: Path, database: sqlite3.Connection) -> int:
    """Copies what a damaged store still gives, from both ends up to the damage."""
    saved = 0
    with contextlib.closing(sqlite3.connect(damaged)) as source, transaction(database):
        for table, order in (("layout", "name"), ("samples", "number"), ("samples", "number DESC")):
            with contextlib.suppress(sqlite3.DatabaseError):
                for row in source.execute(f"SELECT * FROM {table} ORDER BY {order}"):
                    marks = ", ".join("?" * len(row))
                    done = database.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
                    saved += done.rowcount if table == "samples" else 0
    return saved
