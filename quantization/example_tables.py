"""Windows of labelled sensor readings from a table: CSV or Parquet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataShapeError, DataSourceError

Array = NDArray[Any]
Labelled = tuple[Array, Array, tuple[str, ...]]


def read_table(path: Path, shape: tuple[int, ...], *, length: int | None = None) -> Labelled:
    """Windows of a table of sensor readings, one row per step, with a header.

    The column `label` holds the class, every other one a feature. A window is as many rows in a row of one
    class as the model takes; windows do not overlap.

    Args:
        path: A `.csv` or `.parquet` file.
        shape: What the model takes: `[steps, features]`, or `[features]` for one row an example.
        length: Steps of a window; by default the model's.

    Raises:
        DataSourceError: The file cannot be read, a column or a number is missing.
        DataShapeError: The model takes another number of features or steps, or no window is long enough.
    """
    steps, features = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[-1])
    if length is not None and length != steps:
        raise DataShapeError(f"Expected a --length of {steps}, which the model takes; received {length}.")
    names, values = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    if values.ndim != 2 or values.shape[1] != features:
        raise DataShapeError(
            f"Expected {features} features beside 'label' in {str(path)!r}, found {list(values.shape[1:])}."
        )
    starts = _starts(names, steps)
    if not starts:
        raise DataShapeError(f"Expected {steps} rows of one class in a row in {str(path)!r}, found none.")
    labels = tuple(sorted(set(names)))
    x = np.stack([values[start : start + steps] for start in starts]).reshape(len(starts), *shape)
    return x, np.array([labels.index(names[start]) for start in starts], np.int64), labels


def _starts(names: list[str], steps: int) -> list[int]:
    starts, place = [], 0
    while place + steps <= len(names):
        if len(set(names[place : place + steps])) == 1:
            starts.append(place)
            place += steps
        else:
            place += 1
    return starts


def _read_csv(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        names = [row.pop("label") for row in rows]
        return names, np.array([[float(value) for value in row.values()] for row in rows], np.float32)
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataSourceError(
            f"Expected rows of numbers and a column 'label' in {str(path)!r}: {type(error).__name__} {error}."
        ) from error


def _read_parquet(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataSourceError(
            "Expected pyarrow to read a .parquet file, it is not installed.",
            remedy="Install hedgerow[convert], or give a .csv.",
        ) from error
    try:
        table = parquet.read_table(path)
        names = [str(name) for name in table.column("label").to_pylist()]
        columns = [table.column(name).to_numpy() for name in table.column_names if name != "label"]
        return names, np.stack(columns, axis=1).astype(np.float32)
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise DataSourceError(
            f"Expected columns of numbers and a column 'label' in {str(path)!r}: {error}."
        ) from error
