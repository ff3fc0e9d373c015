"""Models and examples from what a user names: a file, a folder, a function, or a model of the zoo."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, UsageError
from ..models import zoo
from . import example_files

Array = NDArray[Any]

CALIBRATION = 200
TEST = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Labelled examples, split for a conversion.

    Attributes:
        calibration: Examples that ranges are measured on.
        test: Held-out examples.
        answers: Their classes or numbers.
        labels: Name of each class; empty if unknown.
    """

    calibration: Array
    test: Array
    answers: Array
    labels: tuple[str, ...] = ()


def load_model(source: str) -> keras.Model:
    """Loads a Keras model.

    Args:
        source: A `.keras` or `.h5` file, `package.module:function` that returns a model, or a name of the
            zoo (with initial weights).

    Raises:
        UsageError: It is none of these, or does not hold a Keras model.
    """
    if ":" in source and not Path(source).exists():
        model = _function(source)()
    elif source in zoo.names():
        model = zoo.get(source).create(seed=0)
    else:
        model = _read_model(Path(source))
    if not isinstance(model, keras.Model):
        raise UsageError(f"Expected a Keras model from {source!r}, received {type(model).__name__}.")
    return model


def load_examples(source: str, model: keras.Model, *, seed: int = 0) -> Examples:
    """Loads examples and splits them: up to 200 for calibration, up to 1,000 others for the test.

    Args:
        source: An `.npz`, a folder with one folder of images or WAV files per class, a CSV file, or
            `package.module:function` that returns `(x, y)` or `(x, y, labels)`; see `example_files`.
        model: The model that they are for; images, sounds and windows take its input's size.
        seed: Of the split.

    Raises:
        CalibrationError: The examples do not fit together, are too few, or a class has none.
        UsageError: `source` is none of these.
    """
    path, shape = Path(source), tuple(model.inputs[0].shape[1:])
    if path.is_dir():
        x, y, labels = example_files.read_folder(path, shape)
    elif path.suffix == ".npz":
        x, y, labels = example_files.read_arrays(path)
    elif path.suffix == ".csv":
        x, y, labels = example_files.read_table(path, shape)
    elif ":" in source:
        found = tuple(_function(source)())
        x, y = np.asarray(found[0]), np.asarray(found[1])
        labels = tuple(map(str, found[2])) if len(found) > 2 else ()
    else:
        raise UsageError(
            f"Expected an .npz, a .csv, a folder of images or WAV files by class, or "
            f"package.module:function; received {source!r}."
        )
    return split(x, y, labels, seed=seed)


def split(x: Array, y: Array, labels: tuple[str, ...], *, seed: int) -> Examples:
    """Deals examples into calibration and test, without overlap: equal examples go to the same side.

    Raises:
        CalibrationError: They do not fit together, are fewer than four, or a class has none.
    """
    if len(x) != len(y) or len(x) < 4:
        raise CalibrationError(
            f"Expected at least 4 examples with an answer each, received {len(x)} and {len(y)}."
        )
    if labels and np.issubdtype(y.dtype, np.integer):
        if y.min() < 0 or y.max() >= len(labels):
            raise CalibrationError(
                f"Expected classes 0 to {len(labels) - 1}, received {y.min()} to {y.max()}."
            )
        missing = [labels[i] for i in np.flatnonzero(np.bincount(y.reshape(-1), minlength=len(labels)) == 0)]
        if missing:
            raise CalibrationError(
                f"Expected examples of every class, received none of {', '.join(missing)}."
            )
    _, first = np.unique(np.ascontiguousarray(x).reshape(len(x), -1), axis=0, return_index=True)
    order = np.random.default_rng(seed).permutation(np.sort(first))
    calibration = min(CALIBRATION, max(1, len(order) // 4))
    test = order[calibration : calibration + TEST]
    return Examples(x[order[:calibration]], x[test], y[test], labels)


def _function(source: str) -> Callable[[], Any]:
    module, _, name = source.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"Expected package.module:function, cannot find {source!r}: {error}.") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise UsageError(f"Expected a function at {source!r}, received {type(found).__name__}.")
    function: Callable[[], Any] = found
    return function


def _read_model(path: Path) -> Any:
    if path.suffix not in (".keras", ".h5") or not path.is_file():
        raise UsageError(
            f"Expected a .keras file, package.module:function or one of {', '.join(zoo.names())}; received "
            f"{str(path)!r}.",
        )
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise UsageError(f"Cannot read the Keras model {str(path)!r}: {words}.") from error
