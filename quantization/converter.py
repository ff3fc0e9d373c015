"""From a Keras model to the bytes of a `.tflite` for inference, in a process that may crash without us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, RecipeError
from ..hardware.graph import read_graphs
from . import calibration as examples_of
from . import foreign_model, fused_file, graph, mixing, recipes
from .compact import compact
from .converter_process import ConverterProcess
from .recipes import Recipe
from .sensitivity import operator_costs

Array = NDArray[Any]


class Converter:
    """The TFLite converter in a process of its own, for several conversions one after the other.

    A process that crashed is replaced at the next conversion.
    """

    def __init__(self, process: ConverterProcess | None = None) -> None:
        """Prepares a converter.

        Args:
            process: One that was started early; it is closed with the converter.
        """
        self._process = process or ConverterProcess()

    def start(self) -> None:
        """Starts the process without waiting for it."""
        self._process.start()

    def convert(
        self, model: keras.Model, recipe: str | Recipe, *, calibration: Array | Sequence[Array] | None = None
    ) -> bytes:
        """Converts a model; see :func:`convert`."""
        recipe = recipes.get(recipe)
        if recipe.tunes:
            raise RecipeError(
                f"Expected a recipe that needs no training, received {recipe.name!r}.",
                remedy="Call fine_tune with labelled examples, and convert what it returns with 'int8'.",
            )
        graph.check(model, recipe)
        if recipe.needs_calibration and calibration is None:
            raise CalibrationError(f"The recipe {recipe.name} needs calibration examples, received none.")
        quantizes_file = recipe.activations == "int8" and foreign_model.file_of(model) is not None
        if calibration is not None and (quantizes_file or recipe.clips_ranges or recipe.mixes):
            calibrated = self.calibrate(model, calibration, clip=recipe.clips_ranges)
            operators = recipe.float_operators
            if recipe.mixes and not operators:
                costs = operator_costs(calibrated, calibration, converter=self)
                operators = tuple(cost.output for cost in costs[:1])
            return self.quantize(calibrated, float_operators=operators)
        with self._folder_of(model, recipe, calibration) as job:
            content = fused_file.repair(self._process.answer(job | {"job": "convert"}, model.name))
        # A float file has nothing to share, and the names are of use to whoever looks into it.
        return content if recipe.kind in ("float32", "float16") else compact(content)

    def calibrate(
        self, model: keras.Model, calibration: Array | Sequence[Array], *, clip: bool = False
    ) -> bytes:
        """The model as a float file that notes the range of each tensor, for :meth:`quantize`.

        Args:
            model: As for :func:`convert`.
            calibration: Examples to measure the ranges on.
            clip: Choose ranges that round with the least error, and not from the smallest value to the
                largest.
        """
        recipe = recipes.get("int8")
        graph.check(model, recipe)
        with self._folder_of(model, recipe, calibration) as job:
            calibrated = self._process.answer(job | {"job": "calibrate"}, model.name)
            if not clip:
                return calibrated
            path = Path(job["output"]).with_name("calibrated.tflite")
            path.write_bytes(calibrated)
            return self._process.answer(job | {"job": "clip", "calibrated": str(path)}, model.name)

    def quantize(self, calibrated: bytes, *, float_operators: Sequence[str] = ()) -> bytes:
        """A calibrated file in int8, but for some operators.

        Args:
            calibrated: What :meth:`calibrate` made.
            float_operators: Names of the first outputs of those that stay in float32. Where they are the
                first or the last, so do the file's inputs or outputs.
        """
        graph_of_file = read_graphs(calibrated).graphs[0]
        is_float = mixing.float_ends(graph_of_file, float_operators)
        with self._process.scratch() as folder:
            path = folder / "calibrated.tflite"
            path.write_bytes(calibrated)
            job = {
                "job": "quantize",
                "calibrated": str(path),
                "float_operators": list(float_operators),
                "input_type": "float32" if is_float[0] else "int8",
                "output_type": "float32" if is_float[1] else "int8",
                "output": str(folder / "model.tflite"),
            }
            return compact(fused_file.repair(self._process.answer(job, path.name)))

    def close(self) -> None:
        """Ends the process and removes its files."""
        self._process.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _folder_of(
        self, model: keras.Model, recipe: Recipe, calibration: Array | Sequence[Array] | None
    ) -> Iterator[dict[str, Any]]:
        """A folder with the model and its examples, as the part of a job that names them."""
        with self._process.scratch() as folder:
            job = {
                "signature": graph.SIGNATURE,
                "weights": recipe.weights,
                "activations": recipe.activations,
                "calibration": str(folder / "calibration.npz"),
                "output": str(folder / "model.tflite"),
            }
            if recipe.needs_calibration and calibration is not None:
                np.savez(folder / "calibration.npz", **examples_of.prepare(model, calibration))
            file = foreign_model.file_of(model)
            if file is not None:
                yield job | {"file": str(file.file)}
                return
            graph.freeze(model, folder / "saved_model", recipe)
            yield job | {"saved_model": str(folder / "saved_model")}


def convert(
    model: keras.Model,
    recipe: str | Recipe,
    *,
    calibration: Array | Sequence[Array] | None = None,
    converter: Converter | None = None,
) -> bytes:
    """Converts a Keras model to a `.tflite` for inference.

    The file has a fixed batch of 1 and the signature `infer`: `x` (or `x0`, `x1`, ...) to `output`. LSTM
    layers become the fused operator where they can. The same model, data, recipe and versions give the same
    bytes.

    Args:
        model: A Sequential or functional model; it is not changed.
        recipe: A recipe or its name.
        calibration: Examples `[N, ...]` (or one array per input) to measure the ranges of activations on, as
            the model takes them; at least a hundred, drawn like those it will see. Not for float32.
        converter: A running converter, to save the start of a process.

    Raises:
        RecipeError: There is no such recipe.
        CalibrationError: The examples are missing, do not fit the model, or hold NaN.
        QuantizationError: The model cannot be converted; the subclasses say why.
    """
    if converter is not None:
        return converter.convert(model, recipe, calibration=calibration)
    with Converter() as own:
        return own.convert(model, recipe, calibration=calibration)
