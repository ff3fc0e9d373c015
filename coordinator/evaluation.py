"""The global model on the coordinator's own test data, through the trainable file: no TensorFlow needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CoordinatorConfigError
from ..hardware.interpreter import Interpreter
from ..protocol.tensors import Weights


class HeldOutEvaluation:
    """Evaluates weights on samples that no device has.

    Args:
        program: The trainable file, loaded.
        test_data: An `.npz` with `x` `[N, ...]` float32 and `y` `[N, ...]`.

    Raises:
        CoordinatorConfigError: The file is missing or has no such arrays.
    """

    def __init__(self, program: Interpreter, test_data: Path) -> None:
        try:
            with np.load(test_data, allow_pickle=False) as arrays:
                self._x, self._y = arrays["x"], arrays["y"]
        except (OSError, ValueError, KeyError) as error:
            raise CoordinatorConfigError(
                f"Expected arrays x and y in {test_data}, received: {error}."
            ) from error
        self._program = program
        self._batch_size = program.signatures()["evaluate"].inputs["x"].shape[0]

    def evaluate(self, weights: Weights) -> dict[str, float]:
        """Loss and metrics of a model over all test samples: sums over batches, divided once."""
        self._program.run("set_weights", weights)
        sums: dict[str, float] = {}
        for start in range(0, len(self._x), self._batch_size):
            rows = slice(start, start + self._batch_size)
            for name, value in self._program.run(
                "evaluate", self._batch(self._x[rows], self._y[rows])
            ).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        count = sums["weight_sum"]
        return {
            name.removesuffix("_sum"): value / count
            for name, value in sums.items()
            if name.endswith("_sum") and name != "weight_sum"
        }

    def _batch(
        self, x: NDArray[np.float32], y: NDArray[np.int32]
    ) -> dict[str, NDArray[np.float32 | np.int32]]:
        """A whole batch: a short last one is filled up with rows of weight 0."""
        missing = self._batch_size - len(x)
        weight = np.ones(len(x), np.float32)
        if missing:
            x, y = (np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) for part in (x, y))
            weight = np.concatenate([weight, np.zeros(missing, np.float32)])
        return {"x": x, "y": y, "weight": weight}
