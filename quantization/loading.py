"""Models and examples from what a user names: a file, a folder, a function, or a model of the zoo."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, DataSourceError, EmptyClassError, LabelsError, SourceError, UsageError
from ..models import zoo
from . import calibration as examples_of
from . import example_files, foreign_model
from .example_tables import read_table

Array = NDArray[Any]
Data = tuple[Array, Array] | tuple[Array, Array, Sequence[str]]

CALIBRATION = 200
TEST = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Labelled examples, split for a conversion.

    Attributes:
        calibration: Examples that ranges are measured on.
        test: Held-out examples.
        answers: Their classes or numbers.
        training: Examples and their answers for fine-tuning: all that are not in the test.
        labels: Name of each class; empty if unknown.
    """

    calibration: Array
    test: Array
    answers: Array
    training: tuple[Array, Array]
    labels: tuple[str, ...] = ()


def load_model(source: str | Path | keras.Model) -> keras.Model:
    """Loads a model.

    Args:
        source: A Keras model, a `.keras` or `.h5` file, the folder of a SavedModel, a float `.tflite`,
            `package.module:function` that returns a Keras model, or a name of the zoo (with initial weights).

    Raises:
        SourceError: It is none of these, or cannot be read.
        QuantizationError: A SavedModel does not take one input and give one output.
        ModelFileError: A `.tflite` is damaged, or not a float file.
    """
    if isinstance(source, keras.Model):
        return source
    text, path = str(source), Path(source)
    if path.exists():
        return _read_model(path)
    if text in zoo.names():
        return zoo.get(text).create(seed=0)
    if ":" not in text:
        raise SourceError(
            f"Expected a .keras file, a SavedModel, a .tflite, package.module:function or one of "
            f"{', '.join(zoo.names())}; {text!r} is none of these.",
        )
    model = _function(text)()
    if not isinstance(model, keras.Model):
        raise SourceError(f"Expected a Keras model from {text!r}, received {type(model).__name__}.")
    return model


def load_examples(
    source: str | Path | Data, model: keras.Model, *, seed: int = 0, length: int | None = None
) -> Examples:
    """Loads examples, checks that they fit the model and splits them.

    Args:
        source: `(x, y)` or `(x, y, labels)`; an `.npz` with arrays of these names; a folder with one folder
            of images or WAV files per class; a CSV or Parquet file; or `package.module:function` that
            returns them. See `example_files` and `example_tables`.
        model: The model that they are for; images, sounds and windows take its input's size.
        seed: Of the split.
        length: Steps of a window, for a table; by default what the model takes.

    Raises:
        DataSourceError: `source` is none of these, or cannot be read.
        CalibrationError: The examples do not fit together or the model, or are too few; subclasses say how.
    """
    x, y, labels = read_examples(source, tuple(model.inputs[0].shape[1:]), length)
    examples_of.prepare(model, x)
    _check_answers(model, x, y)
    return split(x, y, labels, seed=seed)


def split(x: Array, y: Array, labels: tuple[str, ...], *, seed: int) -> Examples:
    """Deals examples out without overlap: of equal examples one is taken.

    Half of them are for the test, at most 1,000. Of the rest, at most 200 are for calibration; all of the
    rest are for fine-tuning.

    Raises:
        CalibrationError: They are fewer than four.
        LabelsError: They are not as many as their answers, or a class has no name.
        EmptyClassError: A class has no examples.
    """
    if len(x) != len(y):
        raise LabelsError(f"Expected an answer for each example, received {len(x)} and {len(y)}.")
    if len(x) < 4:
        raise CalibrationError(f"Expected at least 4 examples, received {len(x)}.")
    if labels and np.issubdtype(y.dtype, np.integer):
        if y.min() < 0 or y.max() >= len(labels):
            raise LabelsError(f"Expected classes 0 to {len(labels) - 1}, received {y.min()} to {y.max()}.")
        missing = [labels[i] for i in np.flatnonzero(np.bincount(y.reshape(-1), minlength=len(labels)) == 0)]
        if missing:
            raise EmptyClassError(f"Expected examples of every class, received none of {', '.join(missing)}.")
    _, first = np.unique(np.ascontiguousarray(x).reshape(len(x), -1), axis=0, return_index=True)
    order = np.random.default_rng(seed).permutation(np.sort(first))
    test, training = np.split(order, [min(TEST, -(-len(order) // 2))])
    if not len(training):
        raise CalibrationError(
            "Expected at least 2 different examples, received the same one again and again."
        )
    return Examples(x[training[:CALIBRATION]], x[test], y[test], (x[training], y[training]), labels)


def read_examples(
    source: str | Path | Data, shape: tuple[int, ...], length: int | None = None
) -> example_files.Labelled:
    """Reads what `load_examples` splits: examples, their answers, and the names of the classes or ().

    Args:
        source: As `load_examples` takes it.
        shape: What the model takes, without the batch.
        length: Steps of a window, for a table.

    Raises:
        DataSourceError: `source` is none of these, or cannot be read.
    """
    if isinstance(source, tuple):
        return _labelled(source, "the data")
    path = Path(source)
    if path.is_dir():
        return example_files.read_folder(path, shape)
    if path.suffix == ".npz":
        return example_files.read_arrays(path)
    if path.suffix in (".csv", ".parquet"):
        return read_table(path, shape, length=length)
    if ":" in str(source):
        return _labelled(_function(str(source))(), str(source))
    raise DataSourceError(
        f"Expected an .npz, .csv or .parquet, a folder of images or WAV files by class, or "
        f"package.module:function; {str(source)!r} is none of these."
    )


def _labelled(found: Any, source: str) -> example_files.Labelled:
    parts = tuple(found) if isinstance(found, (tuple, list)) else ()
    if len(parts) not in (2, 3):
        raise DataSourceError(
            f"Expected (x, y) or (x, y, labels) from {source}, received {type(found).__name__}."
        )
    labels = tuple(map(str, parts[2])) if len(parts) == 3 else ()
    return np.asarray(parts[0]), np.asarray(parts[1]), labels


def _check_answers(model: keras.Model, x: Array, y: Array) -> None:
    """Classes must be among the model's outputs, numbers as many as it has and finite."""
    shape = tuple(model.output_shape[1:])
    if len(x) != len(y):
        raise LabelsError(f"Expected an answer for each example, received {len(x)} and {len(y)}.")
    if y.shape[1:] == shape[:-1] and np.issubdtype(y.dtype, np.integer):
        classes = max(2, shape[-1])
        if y.size and (y.min() < 0 or y.max() >= classes):
            raise LabelsError(
                f"Expected classes 0 to {classes - 1}, as the model has outputs; received {y.min()} to "
                f"{y.max()}."
            )
        return
    if y.size != len(y) * int(np.prod(shape)) or not np.issubdtype(y.dtype, np.number):
        raise LabelsError(
            f"Expected a class [N] or numbers {['N', *shape]} as answers, received {y.dtype} {list(y.shape)}."
        )
    if not np.isfinite(y).all():
        raise LabelsError("Expected finite numbers as answers, found NaN or infinity.")


def _function(source: str) -> Callable[[], Any]:
    module, _, name = source.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"Expected package.module:function, cannot find {source!r}: {error}.") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise UsageError(f"Expected a function at {source!r}, received {type(found).__name__}.")
    function: Callable[[], Any] = found
    return function


def _read_model(path: Path) -> keras.Model:
    if path.is_dir():
        return foreign_model.read_saved_model(path)
    if path.suffix == ".tflite":
        return foreign_model.read_file(path)
    if path.suffix not in (".keras", ".h5"):
        raise SourceError(
            f"Expected a .keras file, a SavedModel's folder or a .tflite, received {str(path)!r}."
        )
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise SourceError(
            f"Expected a whole .keras file in {str(path)!r}, found {path.stat().st_size} other bytes.",
            remedy="Save the model again; the file is damaged or was cut short.",
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise SourceError(
            f"Cannot read the Keras model {str(path)!r}: {words}.",
            remedy="Check that the file is whole, and that this Keras and its custom layers can load it.",
        ) from error
    return model
