"""A model and its files on the same held-out examples: what each recipe costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import LabelsError
from ..hardware.inference import Inference
from ..models.evaluation import evaluate
from . import calibration

Array = NDArray[Any]

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How well one model or file answers.

    Attributes:
        metrics: `accuracy` of a classifier; `mean_absolute_error` and `mean_squared_error` of a regression.
        confusion: int64 `[classes, classes]`, rows are the right class; None for a regression.
        largest_difference: The largest distance of any output from the Keras model's; 0 for that itself.
        agreement: Share of the examples with the Keras model's class; 1 for a regression.
    """

    metrics: dict[str, float]
    confusion: NDArray[np.int64] | None
    largest_difference: float = 0.0
    agreement: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The Keras model against its files.

    Attributes:
        reference: The Keras model in float32.
        files: Each file's score by its name.
        examples: How many there were.
    """

    reference: Score
    files: dict[str, Score]
    examples: int

    @property
    def metric(self) -> str:
        """The metric that the gate looks at: `accuracy`, or `mean_absolute_error` for a regression."""
        return next(iter(self.reference.metrics))

    def drop(self, name: str) -> float:
        """How much worse a file is than the Keras model, in the metric's unit; negative if better."""
        before, after = (score.metrics[self.metric] for score in (self.reference, self.files[name]))
        return before - after if self.metric == "accuracy" else after - before


def compare(
    model: keras.Model,
    files: Mapping[str, bytes] | Mapping[str, Path],
    x: Array | Sequence[Array],
    y: Array,
    *,
    expected: NDArray[np.float32] | None = None,
    reference_kernels: bool = True,
    num_threads: int = 1,
) -> Comparison:
    """Runs the Keras model and every file on held-out examples.

    Args:
        model: The Keras model with one output.
        files: `.tflite` files for inference by a name of your choice.
        x: Examples `[N, ...]`, or one array per input, as the Keras model takes them.
        y: Integer classes `[N]` (or `[N, steps]`) of a classifier; else the numbers to predict.
        expected: The model's outputs for them, if they are known: what :func:`predict` returned.
        reference_kernels: Run the files on LiteRT's reference kernels, whose integers are the same
            everywhere, and not on the fast ones that this machine happens to have.
        num_threads: Threads of the fast kernels.

    Raises:
        CalibrationError: The examples do not fit the model.
        LabelsError: They are not as many as the answers.
    """
    inputs = list(calibration.prepare(model, x).values())
    y = np.asarray(y)
    if len(y) != len(inputs[0]):
        raise LabelsError(f"Expected as many answers as examples, received {len(y)} and {len(inputs[0])}.")
    if expected is None:
        expected = predict(model, inputs)
    scores = {}
    for name, file in files.items():
        with Inference(
            file, runtime="litert", reference_kernels=reference_kernels, num_threads=num_threads
        ) as inference:
            outputs = inference.predict(*inputs)[0]
        scores[name] = _score(outputs, y, expected)
    return Comparison(_score(expected, y, expected), scores, len(y))


def predict(model: keras.Model, x: Array | Sequence[Array]) -> NDArray[np.float32]:
    """The Keras model's outputs for examples `[N, ...]`, or one array per input."""
    inputs = list(calibration.prepare(model, x).values())
    batches = []
    for start in range(0, len(inputs[0]), _BATCH):
        batch = [array[start : start + _BATCH] for array in inputs]
        batches.append(np.asarray(model(batch[0] if len(batch) == 1 else batch, training=False)))
    return np.concatenate(batches)


def _score(outputs: NDArray[np.float32], y: Array, expected: NDArray[np.float32]) -> Score:
    difference = float(np.abs(outputs - expected).max())
    if _is_binary(expected, y):
        # The probability of one class is that of the other, too.
        outputs, expected = (
            np.stack([1 - one.reshape(-1), one.reshape(-1)], -1) for one in (outputs, expected)
        )
        y = y.reshape(-1)
    if not _is_classification(outputs, y):
        errors = outputs.reshape(len(y), -1) - y.reshape(len(y), -1)
        metrics = {
            "mean_absolute_error": float(np.abs(errors).mean()),
            "mean_squared_error": float((errors**2).mean()),
        }
        return Score(metrics, None, difference)
    flat, flat_expected = (array.reshape(-1, array.shape[-1]) for array in (outputs, expected))
    evaluation = evaluate(flat, y.reshape(-1).astype(np.int32))
    agreement = float((flat.argmax(axis=1) == flat_expected.argmax(axis=1)).mean())
    return Score({"accuracy": evaluation.accuracy}, evaluation.confusion, difference, agreement)


def _is_classification(outputs: NDArray[np.float32], y: Array) -> bool:
    return np.issubdtype(y.dtype, np.integer) and y.shape == outputs.shape[:-1] and outputs.shape[-1] > 1


def _is_binary(expected: NDArray[np.float32], y: Array) -> bool:
    """Whether a model answers with one probability, and the answers are 0 and 1."""
    return (
        np.issubdtype(y.dtype, np.integer)
        and expected.shape == (len(y), 1)
        and y.size == len(y)
        and set(np.unique(y)) <= {0, 1}
        and 0 <= float(expected.min()) <= float(expected.max()) <= 1
    )
