"""Runs a file for inference on real numbers, whatever its inputs and outputs are quantized to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import TensorError
from . import interpreter
from .delegates import Delegate
from .float_ports import with_float_ports
from .interpreter import Binding, SignatureSpec, TensorSpec
from .runtime import RuntimeName

Array = NDArray[Any]
_FLOAT32 = np.dtype(np.float32)
Outputs = tuple[NDArray[np.float32], ...]
Run = Callable[..., Outputs]


class Inference:
    """A model file that takes and gives real numbers, one example at a time.

    Args:
        source: Path of the file, or its bytes.
        runtime: As in `interpreter.load`; also the others.
        float_ports: The runtime itself quantizes, where it can: quicker, and rounded as its QUANTIZE operator
            does, which on a number in the middle between two codes may differ from `quantize` by one.

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
        float_ports: bool = False,
    ) -> None:
        if float_ports:
            source = with_float_ports(source) or source
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
        self._expected = [spec.shape[1:] for spec in self.spec.inputs.values()]
        # The shape of one example where the file has one input: the call that has to be quick.
        self._single = (1, *self._expected[0]) if len(self._expected) == 1 else ()
        binding = self._interpreter.bind()
        self._run: Run = self._run_slowly if binding is None else in_place(self.spec, binding)

    def predict(self, *inputs: Array) -> Outputs:
        """Runs every example through the file.

        Args:
            *inputs: One array per input of the model in the file's order, each `[N, ...]`.

        Returns:
            One float32 array `[N, ...]` per output.

        Raises:
            TensorError: There are too few inputs, or one has another shape than the file's, or no numbers.
        """
        if len(inputs) == 1:
            value = inputs[0]
            if value.dtype is _FLOAT32 and value.shape == self._single:
                return self._run(value)
        self._check(inputs)
        if len(inputs[0]) == 1:
            return self._run(*inputs)
        batches = [self._run(*(value[i : i + 1] for value in inputs)) for i in range(len(inputs[0]))]
        return tuple(np.concatenate(outputs) for outputs in zip(*batches, strict=True))

    def close(self) -> None:
        """Frees the model's memory."""
        self._run = self._run_slowly
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

    def _run_slowly(self, *example: Array) -> Outputs:
        named = zip(self.spec.inputs.items(), example, strict=True)
        outputs = self._interpreter.run(
            self.signature, {name: quantize(value, spec) for (name, spec), value in named}
        )
        return tuple(dequantize(outputs[name], spec) for name, spec in self.spec.outputs.items())

    def _check(self, inputs: Sequence[Array]) -> None:
        rows = inputs[0].shape[:1] if inputs else ()
        fits = [value.shape for value in inputs] == [rows + shape for shape in self._expected]
        if not fits or not rows or not rows[0]:
            expected = [f"(n, {', '.join(map(str, shape))})" for shape in self._expected]
            raise TensorError(
                f"Expected one or more examples as arrays of the shapes [{', '.join(expected)}], received "
                f"{[value.shape for value in inputs]}."
            )
        for value in inputs:
            if value.dtype.kind not in "fiub":
                raise TensorError(f"Expected real numbers, received an array of {value.dtype}.")


def in_place(spec: SignatureSpec, binding: Binding) -> Run:
    """Runs one example in the runtime's own memory: one array `[1, ...]` per input in, one per output out.

    Args:
        spec: The signature's inputs and outputs.
        binding: Their places.
    """
    inputs, outputs = spec.inputs.values(), spec.outputs.values()
    writes = [in_port(one, view) for one, view in zip(inputs, binding.inputs, strict=True)]
    reads = [out_port(one, view) for one, view in zip(outputs, binding.outputs, strict=True)]
    invoke = binding.run

    def run(*example: Array) -> Outputs:
        for write, value in zip(writes, example, strict=True):
            write(value)
        invoke()
        return tuple([read() for read in reads])

    if len(writes) != 1 or len(reads) != 1:
        return run
    (write,), (read,) = writes, reads

    def run_single(value: Array) -> Outputs:
        write(value)
        invoke()
        return (read(),)

    return run_single


def in_port(spec: TensorSpec, view: Callable[[], Array]) -> Callable[[Array], None]:
    """Writes real numbers `[1, ...]` into an input of the runtime.

    Args:
        spec: The input.
        view: Gives the runtime's array of it.
    """

    def write(value: Array) -> None:
        view()[...] = value

    def write_quantized(value: Array) -> None:
        view()[...] = quantize(value, spec)

    return write if spec.scale == 0.0 else write_quantized


def out_port(spec: TensorSpec, view: Callable[[], Array]) -> Callable[[], NDArray[np.float32]]:
    """Reads an output of the runtime as real numbers; a copy.

    Args:
        spec: The output.
        view: Gives the runtime's array of it.
    """
    return lambda: dequantize(view(), spec)


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
