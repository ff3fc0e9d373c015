"""The global model on the coordinator's own test data, through the trainable file: no TensorFlow needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CoordinatorConfigError
from ..hardware.interpreter import Interpreter
from ..protocol.tensors import Weights

Arrays = dict[str, NDArray[Any]]


class HeldOutEvaluation:
    """Evaluates weights on samples that no device has.

    Args:
        program: The trainable file, loaded.
        test_data: An `.npz` with `x` `[N, ...]` and `y` `[N, ...]`; `x0`, `x1` and so on where the model has
            several inputs, as the file's `evaluate` signature calls them.

    Raises:
        CoordinatorConfigError: The file is missing or has no such arrays.
    """

    def __init__(self, program: Interpreter, test_data: Path) -> None:
        inputs = program.signatures()["evaluate"].inputs
        names = [name for name in inputs if name != "weight"]
        try:
            with np.load(test_data, allow_pickle=False) as arrays:
                self._data: Arrays = {name: arrays[name] for name in names}
        except (OSError, ValueError, KeyError) as error:
            raise CoordinatorConfigError(
                f"Expected arrays {' and '.join(names)} in {test_data}, received: {error}."
            ) from error
        self._program = program
        self._batch_size = inputs["weight"].shape[0]

    def evaluate(self, weights: Weights) -> dict[str, float]:
        """Loss and metrics of a model over all test samples: sums over batches, divided once."""
        self._program.run("set_weights", weights)
        sums: dict[str, float] = {}
        for start in range(0, len(next(iter(self._data.values()))), self._batch_size):
            rows = slice(start, start + self._batch_size)
            batch = self._batch({name: array[rows] for name, array in self._data.items()})
            for name, value in self._program.run("evaluate", batch).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        count = sums["weight_sum"]
        return {
            name.removesuffix("_sum"): value / count
            for name, value in sums.items()
            if name.endswith("_sum") and name != "weight_sum"
        }

    def _batch(self, data: Arrays) -> Arrays:
        """A whole batch: a short last one is filled up with rows of weight 0."""
        rows = len(next(iter(data.values())))
        missing = self._batch_size - rows
        weight = np.ones(rows, np.float32)
        if missing:
            data = {
                name: np.concatenate([part, np.repeat(part[:1], missing, axis=0)])
                for name, part in data.items()
            }
            weight = np.concatenate([weight, np.zeros(missing, np.float32)])
        return {**data, "weight": weight}
