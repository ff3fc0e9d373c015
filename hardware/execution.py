"""Runs examples through a file on any runtime of this machine, each in a process of its own.

`python -m hedgerow.hardware.execution` runs the TFLite interpreters; TFLite Micro and xcore bring their own
process. A runtime that refuses a file, crashes on it or takes for ever is an error with its last words.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import HedgerowError, InterpreterError
from . import interpreter, micro, program, xcore
from .graph import Graph, GraphTensor, ModelGraphs, read_graphs
from .interpreter import TensorSpec
from .runtime import RUNTIMES, RuntimeName

Array = NDArray[Any]
_LARGEST_BYTES = 1 << 30
ExecutingRuntime = Literal["tflite", "litert", "micro", "xcore"]


def installed() -> tuple[ExecutingRuntime, ...]:
    """The runtimes that this machine has, without importing any."""
    found: list[ExecutingRuntime] = []
    for name, (_, distribution) in RUNTIMES.items():
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append("tflite" if name == "tflite" else "litert")
    if micro.is_installed():
        found.append("micro")
    if xcore.is_installed():
        found.append("xcore")
    return tuple(found)


def execute(
    path: str | Path,
    inputs: Sequence[Array],
    *,
    runtime: ExecutingRuntime,
    reference_kernels: bool = False,
) -> list[Array]:
    """Runs examples one at a time through the inference graph of a file.

    Args:
        path: The file.
        inputs: One array `[N, ...]` per input in the file's order, of the file's types.
        runtime: Where.
        reference_kernels: Use the kernels that define the results; `tflite` and `litert` have a choice.

    Returns:
        One array `[N, ...]` per output in the file's order.

    Raises:
        InterpreterError: The runtime is missing, refused the file, or crashed on it.
        CompilerError: The file cannot be compiled for xcore.
    """
    path = Path(path)
    if runtime == "micro":
        return micro.execute(path, list(inputs))
    if runtime == "xcore":
        return xcore.execute(path, list(inputs))
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, *inputs)
        options = ["--reference"] if reference_kernels else []
        ended = program.run_module(__name__, path, given, made, runtime, *options)
        if not ended.succeeded:
            raise InterpreterError(f"{runtime} cannot run {path.name!r}: {ended.last_words}.")
        with np.load(made) as arrays:
            return [arrays[name] for name in arrays.files]


def specs(model: ModelGraphs) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """What the inference graph takes and gives, in the file's order.

    Raises:
        InterpreterError: A tensor has a type that numpy does not have.
    """
    graph = model.graphs[model.inference]
    return [_spec(graph, i) for i in graph.inputs], [_spec(graph, i) for i in graph.outputs]


def random_inputs(model: ModelGraphs, *, examples: int, seed: int) -> list[Array]:
    """Examples for a file whose real inputs are not at hand: uniform over what a quantized input can hold.

    As many times `examples` as the file takes at once.

    Floats are from -1 to 1. Integers that are not quantized may be indices or labels, of which 0 always
    exists.
    """
    rng = np.random.default_rng(seed)
    return [_random(spec, examples, rng) for spec in specs(model)[0]]


def batch_size(spec: TensorSpec) -> int:
    """How many examples an input takes at once; 1 where that is open."""
    return max(1, spec.shape[0]) if spec.shape else 1


def batches(values: Array, spec: TensorSpec) -> list[Array]:
    """Examples `[N, ...]` in the portions that an input takes at once; the rest is left out."""
    if not spec.shape:
        return list(values)
    size = batch_size(spec)
    return [values[start : start + size] for start in range(0, len(values) - size + 1, size)]


def _random(spec: TensorSpec, examples: int, rng: np.random.Generator) -> Array:
    shape = (examples * batch_size(spec), *(abs(size) for size in spec.shape[1:]))
    if np.issubdtype(spec.dtype, np.floating):
        return rng.uniform(-1, 1, shape).astype(spec.dtype)
    if spec.scale and np.issubdtype(spec.dtype, np.integer):
        limits = np.iinfo(spec.dtype)
        return rng.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
    return np.zeros(shape, spec.dtype)


def _spec(graph: Graph, place: int) -> TensorSpec:
    tensor: GraphTensor = graph.tensors[place]
    if tensor.size_bytes > _LARGEST_BYTES:
        raise InterpreterError(
            f"Expected inputs and outputs of at most {_LARGEST_BYTES >> 20} MiB, received "
            f"{tensor.dtype}{list(tensor.shape)}.",
            remedy="Check that the file is not damaged.",
        )
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError as error:
        raise InterpreterError(
            f"Expected inputs and outputs of numbers, received a tensor of {tensor.dtype}.",
            remedy="Run the file with the program that it was made for.",
        ) from error
    one = len(tensor.scales) == 1
    scale, zero_point = (
        (tensor.scales[0], tensor.zero_points[0] if tensor.zero_points else 0) if one else (0.0, 0)
    )
    return TensorSpec(tensor.shape, dtype, scale, zero_point)


def _run(path: Path, inputs: list[Array], runtime: RuntimeName, *, reference: bool) -> list[Array]:
    model = read_graphs(path)
    signature, outputs = model.inference_signature, model.output_names
    rows = []
    with interpreter.load(path, runtime=runtime, reference_kernels=reference) as loaded:
        portions = [batches(values, spec) for values, spec in zip(inputs, specs(model)[0], strict=True)]
        for portion in zip(*portions, strict=True):
            found = loaded.run(signature, dict(zip(model.input_names, portion, strict=True)))
            rows.append([np.atleast_1d(found[name]) for name in outputs])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("path", "given", "made"):
        parser.add_argument(name, type=Path)
    parser.add_argument("runtime")
    parser.add_argument("--reference", action="store_true")
    chosen = parser.parse_args()
    with np.load(chosen.given) as stored:
        inputs = [stored[name] for name in stored.files]
    try:
        np.savez(chosen.made, *_run(chosen.path, inputs, chosen.runtime, reference=chosen.reference))
    except HedgerowError as error:
        sys.exit(f"Error: {error.args[0]}")


if __name__ == "__main__":
    _main()
