"""TFLite Micro on this machine: the arena that a model really takes, and what its kernels compute.

The only file that knows the package tflite-micro. A file that it cannot run may end the process, so that it
has one of its own: `python -m hedgerow.hardware.micro MODEL GIVEN.npz MADE.npz OUTPUTS`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InterpreterError
from . import program
from .graph import read_graphs

_DISTRIBUTION = "tflite-micro"
_PARTS = {part: re.compile(rf"Arena allocation {part} (\d+) bytes") for part in ("total", "head", "tail")}
_NODE = re.compile(r"Node (?P<operator>\w+) \(number (?P<index>\d+)")
_MISSING = re.compile(r"Didn't find op for builtin opcode '(?P<operator>\w+)'")
_SOURCE_FILE = re.compile(r"^\S+\.(cc|h)(:\d+)?\s+")
_LARGEST_BYTES = 1 << 28
# Of the file's size, and at least so much: what the arena is given to find out what it takes.
_ARENA_FACTOR, _ARENA_BYTES = 32, 16 << 20


@dataclass(frozen=True, slots=True)
class Arena:
    """The tensor arena of a model, measured.

    Attributes:
        runtime: The runtime with its version.
        total_kib: All of it. This machine's pointers have 64 bits: a 32-bit chip needs a little less.
        head_kib: What tensors and scratch buffers share.
        tail_kib: What lives as long as the interpreter: its own structures, kernels' data, variables.
    """

    runtime: str
    total_kib: float
    head_kib: float
    tail_kib: float


def is_installed() -> bool:
    """Whether tflite-micro is here."""
    return importlib.util.find_spec("tflite_micro") is not None


def measure(path: str | Path) -> Arena:
    """Runs a file once on zeros and reads what its arena took.

    Raises:
        InterpreterError: tflite-micro is missing, or cannot run the file.
    """
    path = Path(path)
    graph = read_graphs(path).graphs[0]
    taken = [graph.tensors[place] for place in graph.inputs]
    size = sum(tensor.size_bytes for tensor in taken)
    if size > _LARGEST_BYTES:
        raise _error(
            f"TFLite Micro cannot run {path.name!r}: its inputs take {size:,} bytes.", words="too large"
        )
    try:
        zeros = [np.zeros([abs(n) for n in tensor.shape], tensor.dtype) for tensor in taken]
    except TypeError as error:
        raise _error(f"TFLite Micro cannot run {path.name!r}: {error}.", words=str(error)) from error
    return _run(path, zeros)[0]


def execute(path: Path, inputs: list[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Runs examples, each on variables set back to zero.

    Args:
        path: The file.
        inputs: One array `[N, ...]` per input in the file's order, of the file's types.

    Returns:
        One array `[N, ...]` per output.

    Raises:
        InterpreterError: tflite-micro is missing, or cannot run the file.
    """
    return _run(path, inputs)[1]


def _run(path: Path, inputs: list[NDArray[np.generic]]) -> tuple[Arena, list[NDArray[np.generic]]]:
    if not is_installed():
        raise _error("Expected tflite-micro to be installed, found none.")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, *inputs)
        outputs = len(read_graphs(path).graphs[0].outputs)
        ended = program.run_module(__name__, path, given, made, str(outputs))
        sizes = {part: pattern.search(ended.errors) for part, pattern in _PARTS.items()}
        if not ended.succeeded or not all(sizes.values()):
            raise _refusal(path, ended)
        with np.load(made) as arrays:
            results = [arrays[name] for name in arrays.files]
    total, head, tail = (int(found[1]) / 1024 for found in sizes.values() if found is not None)
    return Arena(f"{_DISTRIBUTION} {importlib.metadata.version(_DISTRIBUTION)}", total, head, tail), results


def _refusal(path: Path, ended: program.Ended) -> InterpreterError:
    node, missing = _NODE.search(ended.errors), _MISSING.search(ended.errors)
    if missing is not None:
        words = f"it has no {missing['operator']}"
        return _error(f"TFLite Micro cannot run {path.name!r}: {words}.", missing["operator"], words=words)
    lines = [line.strip() for line in ended.errors.splitlines() if line.strip()]
    # Its own reason stands in the line before the one that names the operator.
    at = next((number for number, line in enumerate(lines) if _NODE.search(line)), 0)
    said = _SOURCE_FILE.sub("", lines[at - 1]) if at else ended.last_words
    words = f"TFLite Micro: {said}"
    message = f"TFLite Micro cannot run {path.name!r}: {ended.last_words}."
    if node is None:
        return _error(message, words=words)
    return _error(message, node["operator"], index=int(node["index"]), words=words)


def _error(
    message: str, operator: str = "", *, index: int | None = None, words: str = ""
) -> InterpreterError:
    remedy = "Install hedgerow[micro]." if not words else "Convert with the recipe int8, for inference alone."
    return InterpreterError(message, remedy=remedy, operator=operator, index=index, words=words)


def _main(path: str, given: str, made: str, outputs: str) -> None:
    runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
    with np.load(given) as stored:
        inputs = [stored[name] for name in stored.files]
    size = max(_ARENA_BYTES, _ARENA_FACTOR * Path(path).stat().st_size)
    interpreter = runtime.Interpreter.from_file(path, arena_size=size)
    rows = []
    for row in range(len(inputs[0])):
        for index, values in enumerate(inputs):
            interpreter.set_input(values[row : row + 1], index)
        interpreter.invoke()
        rows.append([interpreter.get_output(index) for index in range(int(outputs))])
        # A fused LSTM keeps its state from run to run.
        interpreter.reset()
    interpreter.print_allocations()
    np.savez(made, *[np.concatenate(column) for column in zip(*rows, strict=True)])


if __name__ == "__main__":
    _main(*sys.argv[1:])
