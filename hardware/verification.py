"""Does a file give on a runtime what the reference kernels give, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InterpreterError
from . import execution
from .execution import ExecutingRuntime
from .graph import read_graphs
from .inference import dequantize, quantize
from .targets import Target

# XNNPACK's integer kernels differ from the reference ones by up to 9 steps on a keyword model.
_STEPS = 9.0
_RELATIVE = 1e-3
# Noise drives a softmax where it is steepest, so that a step in the logits is many in the output.
_AT_RANDOM = 0.1


class Verification(msgspec.Struct, frozen=True):
    """How far a runtime's answers are from those of the reference kernels.

    Attributes:
        runtime: `tflite`, `litert`, `micro` or `xcore`.
        difference: The largest distance, in real numbers.
        steps: The same in steps of the output's quantization; None if it is not quantized.
        passed: Within 9 steps, or a thousandth of the range for outputs that are not quantized.
    """

    runtime: str
    difference: float
    steps: float | None
    passed: bool

    @property
    def distance(self) -> str:
        """The largest distance for people: in steps where there are any."""
        return f"{self.difference:.1e}" if self.steps is None else f"{self.steps:.0f} LSB"


def runtimes_for(kind: str, targets: Sequence[Target] = ()) -> tuple[ExecutingRuntime, ...]:
    """The runtimes of this machine on which a file of a kind is to be verified.

    Args:
        kind: The recipe's word: `int8`, `float32`, ...
        targets: What the file is for: of each that takes this kind, the runtimes that stand for it. Without
            any, the TFLite interpreters.
    """
    wanted = {"tflite", "litert"} if not targets else set()
    for target in targets:
        if kind in target.kinds or (kind == "int8" and target.compiled):
            wanted |= set(target.verify)
    if kind == "int4":
        # tflite-runtime 2.14 has no int4, TFLite Micro and xcore none that the converter writes.
        wanted &= {"litert"}
    return tuple(runtime for runtime in execution.installed() if runtime in wanted)


def verify(path: str | Path, golden: str | Path, *, runtime: ExecutingRuntime) -> Verification:
    """Runs the golden examples through a file on a runtime.

    Args:
        path: The file.
        golden: An `.npz` with the examples `x` and, under the file's name, the outputs to expect.
        runtime: `tflite`, `litert`, `micro` or `xcore`.

    Raises:
        InterpreterError: The runtime is missing, or cannot run this file, or ended on it.
        CompilerError: The file cannot be compiled for xcore.
    """
    path = Path(path)
    with np.load(golden) as arrays:
        x, expected = arrays["x"], arrays[path.name]
    model = read_graphs(path)
    taken, given = execution.specs(model)
    if len(taken) != 1:
        raise InterpreterError(f"Expected a file with one input, {path.name!r} has {len(taken)}.")
    outputs = execution.execute(path, [quantize(x, taken[0])], runtime=runtime)
    # A mixed file rounds inside, whatever its output is.
    rounds = any(
        tensor.dtype == "int8" and tensor.scales and not tensor.constant
        for tensor in model.graphs[model.inference].tensors
    )
    rounding = _STEPS / 255 if rounds else 0.0
    return _compare(runtime, dequantize(outputs[0], given[0]), expected, given[0].scale, share=rounding)


def verify_at_random(
    path: str | Path, *, runtime: ExecutingRuntime, examples: int = 8, seed: int = 0
) -> Verification:
    """Compares a runtime with LiteRT's reference kernels on random examples.

    Random examples are harder than real ones: a tenth of the output's range passes, wrong kernels exceed it.

    Raises:
        InterpreterError: A runtime is missing, or cannot run this file, or ended on it.
        CompilerError: The file cannot be compiled for xcore.
    """
    model = read_graphs(path)
    inputs = execution.random_inputs(model, examples=examples, seed=seed)
    specs = execution.specs(model)[1]
    expected = execution.execute(path, inputs, runtime="litert", reference_kernels=True)
    received = execution.execute(path, inputs, runtime=runtime)
    found = [
        _compare(runtime, dequantize(got, spec), dequantize(want, spec), spec.scale, share=_AT_RANDOM)
        for got, want, spec in zip(received, expected, specs, strict=True)
    ]
    return max(found, key=lambda one: (not one.passed, one.steps or 0.0, one.difference))


def _compare(
    runtime: str, received: NDArray[Any], expected: NDArray[Any], scale: float, *, share: float = 0.0
) -> Verification:
    difference = float(np.abs(received.reshape(expected.shape) - expected).max())
    steps = difference / scale if scale else None
    spread = max(float(np.ptp(expected)), 1e-6)
    allowed = max(_STEPS * scale, share * spread) if scale else max(_RELATIVE, share) * spread
    return Verification(runtime, difference, steps, bool(difference <= allowed * (1 + 1e-6)))
