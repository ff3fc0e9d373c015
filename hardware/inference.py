"""Runs a file for inference on real numbers, whatever its inputs and outputs are quantized to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import TensorError
from . import interpreter
from .delegates import Delegate
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
        delegate: Delegate | None = None,
    ) -> None:
        self._interpreter = interpreter.load(
            source,
            runtime=runtime,
            num_threads=num_threads,
            reference_kernels=reference_kernels,
            delegate=delegate,
        )
        signatures = self._interpreter.signatures()
        self.signature = "infer" if "infer" in signatures else next(iter(signatures))
        self.spec: SignatureSpec = signatures[self.signature]
        self._binding = self._interpreter.bind()
        if self._binding is not None:
            inputs, outputs = self.spec.inputs.values(), self.spec.outputs.values()
            self._sources = [
                InPort(spec, view) for spec, view in zip(inputs, self._binding.inputs, strict=True)
            ]
            self._sinks = [
                OutPort(spec, view) for spec, view in zip(outputs, self._binding.outputs, strict=True)
            ]

    def predict(self, *inputs: Array) -> tuple[NDArray[np.float32], ...]:
        """Runs every example through the file.

        Args:
            *inputs: One array per input of the model in the file's order, each `[N, ...]`.

        Returns:
            One float32 array `[N, ...]` per output.

        Raises:
            TensorError: There are too few inputs, or one has another shape than the file's.
        """
        if len(inputs) != 1 or inputs[0].shape != self._single:
            self._check(inputs)
        run = self._run_slowly if self._binding is None else self._run_in_place
        if len(inputs[0]) == 1:
            return tuple(run(inputs))
        batches = [run([value[i : i + 1] for value in inputs]) for i in range(len(inputs[0]))]
        return tuple(np.concatenate(outputs) for outputs in zip(*batches, strict=True))

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

    @cached_property
    def _single(self) -> tuple[int, ...]:
        """The shape of one example where the file has one input: the call that has to be quick."""
        return (1, *self._expected[0]) if len(self._expected) == 1 else ()

    @cached_property
    def _expected(self) -> list[tuple[int, ...]]:
        return [spec.shape[1:] for spec in self.spec.inputs.values()]

    def _run_in_place(self, example: Sequence[Array]) -> list[NDArray[np.float32]]:
        assert self._binding is not None
        for source, value in zip(self._sources, example, strict=True):
            source.write(value)
        self._binding.run()
        return [sink.read() for sink in self._sinks]

    def _run_slowly(self, example: Sequence[Array]) -> list[NDArray[np.float32]]:
        named = zip(self.spec.inputs.items(), example, strict=True)
        outputs = self._interpreter.run(
            self.signature, {name: quantize(value, spec) for (name, spec), value in named}
        )
        return [dequantize(outputs[name], spec) for name, spec in self.spec.outputs.items()]

    def _check(self, inputs: Sequence[Array]) -> None:
        rows = inputs[0].shape[:1] if inputs else ()
        fits = [value.shape for value in inputs] == [rows + shape for shape in self._expected]
        if not fits or not rows or not rows[0]:
            raise TensorError(
                f"Expected examples of the shapes {self._expected}, received arrays of the shapes "
                f"{[value.shape for value in inputs]}."
            )


class InPort:
    """Writes real numbers into an input of the runtime, quantized on the way as `quantize` does, in place.

    Numpy's functions with places for their results, and a cast in the last step: a fresh array costs more
    than the arithmetic, and a function that dispatches (`copyto`, `clip`) twice as much as one that does not.

    Args:
        spec: The input.
        view: Gives the runtime's array of it.
    """

    def __init__(self, spec: TensorSpec, view: Callable[[], Array]) -> None:
        self._view = view
        self._quantized = spec.scale != 0.0 and np.issubdtype(spec.dtype, np.integer)
        if self._quantized:
            limits = np.iinfo(spec.dtype)
            self._scratch = np.empty(spec.shape, np.float32)
            self._scale, self._zero_point = np.float32(spec.scale), np.float32(spec.zero_point)
            self._lowest, self._highest = np.float32(limits.min), np.float32(limits.max)

    def write(self, value: Array) -> None:
        """Writes one example `[1, ...]`."""
        if self._quantized:
            scratch = self._scratch
            if value.dtype != np.float32:
                scratch[...] = value
                value = scratch
            np.divide(value, self._scale, scratch)
            np.rint(scratch, scratch)
            np.add(scratch, self._zero_point, scratch)
            np.minimum(scratch, self._highest, out=scratch)
            np.maximum(scratch, self._lowest, out=scratch)
            value = scratch
        self._view()[...] = value


class OutPort:
    """Reads an output of the runtime as real numbers, as `dequantize` does.

    Args:
        spec: The output.
        view: Gives the runtime's array of it.
    """

    def __init__(self, spec: TensorSpec, view: Callable[[], Array]) -> None:
        self._view = view
        self._spec = spec
        # An output of 8 bits has 256 values: to look them up is one step instead of three.
        eight_bits = spec.scale != 0.0 and spec.dtype.kind in "iu" and spec.dtype.itemsize == 1
        codes = np.arange(256, dtype=np.uint8).view(spec.dtype) if eight_bits else None
        self._table = None if codes is None else dequantize(codes, spec)

    def read(self) -> NDArray[np.float32]:
        """A copy of the output of the last run."""
        if self._table is None:
            return dequantize(self._view(), self._spec)
        # Negative codes count from the table's end, as the codes in it do.
        return self._table.take(self._view(), mode="wrap")


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
