"""Runs a file for inference on real numbers, whatever its inputs and outputs are quantized to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import TensorError
from . import interpreter
from .interpreter import SignatureSpec, TensorSpec
from .runtime import RuntimeName

Array = NDArray[Any]


class Inference:
    """A model file that takes and gives real numbers, one example at a time.

    Attributes:
        signature: The signature that is run: `infer`, or the only one.
        spec: Its inputs and outputs.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        runtime: RuntimeName = "auto",
        num_threads: int = 1,
        reference_kernels: bool = False,
    ) -> None:
        self._interpreter = interpreter.load(
            source, runtime=runtime, num_threads=num_threads, reference_kernels=reference_kernels
        )
        signatures = self._interpreter.signatures()
        self.signature = "infer" if "infer" in signatures else next(iter(signatures))
        self.spec: SignatureSpec = signatures[self.signature]

    def predict(self, *inputs: Array) -> tuple[NDArray[np.float32], ...]:
        """Runs every example through the file.

        Args:
            *inputs: One array per input of the model in the file's order, each `[N, ...]`.

        Returns:
            One float32 array `[N, ...]` per output.

        Raises:
            TensorError: There are too few inputs, or one has another shape than the file's.
        """
        self._check(inputs)
        batches = [
            self._interpreter.run(self.signature, self._quantized([value[i : i + 1] for value in inputs]))
            for i in range(len(inputs[0]))
        ]
        return tuple(
            np.concatenate([dequantize(batch[name], spec) for batch in batches])
            for name, spec in self.spec.outputs.items()
        )

    def close(self) -> None:
        """Frees the model's memory."""
        self._interpreter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _quantized(self, values: Sequence[Array]) -> dict[str, Array]:
        return {
            name: quantize(value, spec)
            for (name, spec), value in zip(self.spec.inputs.items(), values, strict=True)
        }

    def _check(self, inputs: Sequence[Array]) -> None:
        expected = [spec.shape[1:] for spec in self.spec.inputs.values()]
        received = [value.shape[1:] for value in inputs]
        lengths = {len(value) for value in inputs}
        if received != expected or len(lengths) != 1 or 0 in lengths:
            raise TensorError(
                f"Expected examples of the shapes {expected}, received arrays of the shapes "
                f"{[value.shape for value in inputs]}."
            )


def quantize(values: Array, spec: TensorSpec) -> Array:
    """Real numbers as the integers that `spec` asks for, rounded half to even and clipped to its type.

    TFLite's definition: value = round(real / scale) + zero_point. A tensor that is not quantized is cast.
    """
    if spec.scale == 0.0 or not np.issubdtype(spec.dtype, np.integer):
        return values.astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    scaled = np.round(values.astype(np.float32) / np.float32(spec.scale)) + spec.zero_point
    clipped: Array = np.clip(scaled, limits.min, limits.max).astype(spec.dtype)
    return clipped


def dequantize(values: Array, spec: TensorSpec) -> NDArray[np.float32]:
    """The real numbers that a tensor stands for: scale * (value - zero_point)."""
    if spec.scale == 0.0:
        return values.astype(np.float32)
    return (values.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
