"""The device's own samples: `train.npz` and `test.npz` in one folder, each with arrays `x` and `y`.

A model with several inputs has `x0`, `x1` and so on in the place of `x`, in the model's order.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SamplesError
from .sample_policy import Split

Array = NDArray[Any]
Inputs = Array | dict[str, Array]


@dataclass(frozen=True, slots=True)
class Samples:
    """Examples with their labels.

    Args:
        x: `[n, ...]`, finite numbers; of several inputs such an array each, by `x0`, `x1` and so on.
        y: `[n, ...]`, the labels or targets.
    """

    x: Inputs
    y: Array

    @classmethod
    def of(cls, arrays: dict[str, Array]) -> Samples:
        """From the arrays of a file, by name."""
        names = input_names(arrays)
        return cls(arrays["x"] if names == ("x",) else {name: arrays[name] for name in names}, arrays["y"])

    def __len__(self) -> int:
        return len(self.y)

    @property
    def arrays(self) -> dict[str, Array]:
        """Every array by its name in a file."""
        return {**(self.x if isinstance(self.x, dict) else {"x": self.x}), "y": self.y}


@dataclass(frozen=True, slots=True)
class SampleFolder:
    """Where the device's samples lie; others may replace the files while the agent runs."""

    folder: Path

    def load(self, split: Split) -> Samples:
        """Reads one split.

        Raises:
            SamplesError: The file is missing, damaged or empty, or the arrays do not fit each other.
        """
        path = self.folder / f"{split}.npz"
        samples = Samples.of(_read(path))
        shapes = {name: array.shape for name, array in samples.arrays.items()}
        if not all(shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
            raise SamplesError(
                f"Expected as many labels as examples in {path}, received shapes "
                f"{' and '.join(map(str, shapes.values()))}."
            )
        if len(samples) == 0:
            raise SamplesError(f"Expected samples in {path}, received none.")
        for name, values in samples.arrays.items():
            if values.dtype.kind not in "fiub":
                raise SamplesError(f"Expected numbers as {name!r} in {path}, received {values.dtype}.")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise SamplesError(
                    f"Expected finite numbers as {name!r} in {path}, received NaN or infinity."
                )
        return samples


def input_names(names: Collection[str]) -> tuple[str, ...]:
    """Which of these names are the inputs': `x` alone, or `x0`, `x1` and so on without a gap; else `x`."""
    count = 0
    while "x" not in names and f"x{count}" in names:
        count += 1
    return tuple(f"x{index}" for index in range(count)) if count > 1 else ("x",)


def _read(path: Path) -> dict[str, Array]:
    """The arrays of a file that belong to samples."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (*input_names(arrays.files), "y")}
    except FileNotFoundError as error:
        raise SamplesError(f"Expected samples at {path}, received no file.") from error
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise SamplesError(
            f"Expected arrays x and y in {path}, or x0, x1 and y for two inputs, received: {error}."
        ) from error
