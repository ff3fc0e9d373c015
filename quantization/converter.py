"""From a Keras model to the bytes of a `.tflite` for inference, in a process that may crash without us."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, ConverterError
from . import calibration as examples_of
from . import fused_file, graph, recipes
from .recipes import Recipe

Array = NDArray[Any]

_CLOSE_SECONDS = 1.0
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}


class Converter:
    """A process with the TFLite converter, for several conversions one after the other.

    It imports TensorFlow, which takes seconds: start it early, while a model is trained. A process that
    crashed is replaced at the next conversion.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hedgerow-convert-")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts the process without waiting for it."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _ENVIRONMENT,
            )

    def convert(
        self, model: keras.Model, recipe: str | Recipe, *, calibration: Array | Sequence[Array] | None = None
    ) -> bytes:
        """Converts a model; see :func:`convert`."""
        recipe = recipes.get(recipe)
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            folder = Path(name)
            job = {
                "saved_model": str(folder / "saved_model"),
                "signature": graph.SIGNATURE,
                "weights": recipe.weights,
                "activations": recipe.activations,
                "calibration": str(folder / "calibration.npz"),
                "output": str(folder / "model.tflite"),
            }
            graph.check(model, recipe)
            if recipe.needs_calibration:
                if calibration is None:
                    raise CalibrationError(
                        f"The recipe {recipe.name} needs calibration examples, received none."
                    )
                np.savez(folder / "calibration.npz", **examples_of.prepare(model, calibration))
            graph.freeze(model, folder / "saved_model", recipe)
            self._answer(job, model.name)
            return fused_file.repair((folder / "model.tflite").read_bytes())

    def close(self) -> None:
        """Ends the process and removes its files."""
        self._end()
        self._folder.cleanup()

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

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "converter.log"

    def _answer(self, job: dict[str, str], model: str) -> None:
        """Sends one job and waits for its end."""
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._end()
            end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ConverterError(
                f"The TFLite converter crashed on the model {model!r} ({end}). {self._last_words()}",
                model=model,
            )
        error = json.loads(line)["error"]
        if error is not None:
            words = " ".join(error.split())[:1000].rstrip(".")
            raise ConverterError(f"The TFLite converter refused the model {model!r}: {words}.", model=model)

    def _end(self) -> int:
        """Ends the process, if there is one, and returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        return process.returncode

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"Its last words: {lines[-1][:500].rstrip('.')}." if lines else "It printed nothing."


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
