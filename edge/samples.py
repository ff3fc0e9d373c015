"""The device's own samples: `train.npz` and `test.npz` in one folder, each with arrays `x` and `y`."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SamplesError
from .sample_policy import Split


@dataclass(frozen=True, slots=True)
class Samples:
    """Examples with their labels.

    Args:
        x: `[n, ...]`, finite numbers.
        y: `[n, ...]`, the labels or targets.
    """

    x: NDArray[Any]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True)
class SampleFolder:
    """Where the device's samples lie; others may replace the files while the agent runs."""

    folder: Path

    def load(self, split: Split) -> Samples:
        """Reads one split.

        Raises:
            SamplesError: The file is missing, damaged or empty, or `x` and `y` do not fit each other.
        """
        path = self.folder / f"{split}.npz"
        x, y = _arrays(path, "x", "y")
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise SamplesError(
                f"Expected as many labels as examples in {path}, received shapes {x.shape} and {y.shape}."
            )
        if len(x) == 0:
            raise SamplesError(f"Expected samples in {path}, received none.")
        for name, values in (("x", x), ("y", y)):
            if values.dtype.kind not in "fiub":
                raise SamplesError(f"Expected numbers as {name!r} in {path}, received {values.dtype}.")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise SamplesError(
                    f"Expected finite numbers as {name!r} in {path}, received NaN or infinity."
                )
        return Samples(x, y)


def _arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except FileNotFoundError as error:
        raise SamplesError(f"Expected samples at {path}, received no file.") from error
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise SamplesError(f"Expected arrays {names} in {path}, received: {error}.") from error
