"""How well a classifier did."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt

from .measures import Array, Predict

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a classifier answered, against what is right.

    Attributes:
        confusion: int64 [C, C]; row i, column j counts the examples of class i that were taken for class j.
    """

    confusion: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """The share of right answers; 0 without examples."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))


def evaluate(outputs: npt.NDArray[np.generic], y: npt.NDArray[np.int32]) -> Evaluation:
    """Compares a classifier's outputs with the classes.

    Args:
        outputs: [N, C], probabilities, logits or their int8 form; the first of the largest is the answer.
        y: int32 [N], the right class of each.
    """
    classes = outputs.shape[1]
    confusion = np.bincount(y * classes + outputs.argmax(axis=1), minlength=classes * classes)
    return Evaluation(confusion.reshape(classes, classes).astype(np.int64))


def predictor(model: keras.Model) -> Predict:
    """The model as a function from numpy to numpy, as `measures` ask it."""

    def predict(*inputs: Array) -> Array:
        outputs = []
        for start in range(0, len(inputs[0]), _BATCH):
            batch = [array[start : start + _BATCH] for array in inputs]
            outputs.append(model.predict_on_batch(batch if len(batch) > 1 else batch[0]))
        return np.concatenate(outputs)

    return predict
