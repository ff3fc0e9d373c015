"""Compiles an int8 file for XMOS xcore.ai with xcore-opt, and runs what it made on this machine.

Both come with the package xmos-ai-tools, which needs numpy below 2: it may be in an environment of its own
whose `bin` is on the PATH. The host interpreter is therefore run by the Python beside xcore-opt, by a script
that imports nothing of Hedgerow.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CompilerError, InterpreterError
from . import program
from .compilation import Compilation, CpuOperator, left_on_cpu
from .graph import read_graphs

_PROGRAM = "xcore-opt"
_REMEDY = "Install xmos-ai-tools, here or in an environment of its own, and put its bin folder on the PATH."
_ARENA = re.compile(r"Tensor arena size\s*:\s*(\d+)")
_WARNING = re.compile(
    r"^WARNING: Op left unoptimized!\nReason: (?P<reason>.+)\nName: (?P<name>.+)$", re.MULTILINE
)


def is_installed() -> bool:
    """Whether xcore-opt is on the PATH or beside this Python."""
    return program.find(_PROGRAM) is not None


def compile(path: Path, out_dir: Path) -> Compilation:
    """Compiles a file and writes `<name>_xcore.tflite` into `out_dir`.

    Raises:
        CompilerError: xcore-opt is missing or failed.
    """
    found = _program()
    output = out_dir / f"{path.stem}_xcore.tflite"
    ended = program.run([found, "-o", output, path.resolve()])
    arena = _ARENA.search(ended.output + ended.errors)
    if not ended.succeeded or arena is None or not output.is_file():
        raise CompilerError(
            f"xcore-opt could not compile {path.name!r}: {ended.last_words}.",
            remedy="Convert with the recipe int8, for inference alone.",
            path=str(path),
        )
    source, compiled = read_graphs(path).graphs[0], read_graphs(output).graphs[0]
    reasons = {one["name"]: one["reason"] for one in _WARNING.finditer(ended.errors + ended.output)}
    left = [
        CpuOperator(one.operator, one.tensor, reasons.get(one.tensor, "xcore-opt left it to the scalar core"))
        for one in left_on_cpu(source, compiled, named=reasons.keys())
    ]
    return Compilation(
        compiler=_PROGRAM,
        output=output,
        weights_kib=output.stat().st_size / 1024,
        activations_kib=int(arena[1]) / 1024,
        cpu_operators=tuple(left),
    )


def execute(path: Path, inputs: list[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Compiles a file and runs the result on the host interpreter of xmos-ai-tools.

    Args:
        path: The file, not compiled.
        inputs: One array `[N, ...]` per input in the file's order, of the file's types.

    Returns:
        One array `[N, ...]` per output.

    Raises:
        CompilerError: The file cannot be compiled.
        InterpreterError: The host interpreter is missing, refused the file or crashed on it.
    """
    script = Path(__file__).with_name("xcore_host.py")
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile(path, Path(folder)).output
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, *inputs)
        ended = program.run([_program().parent / "python", script, compiled, given, made])
        if not ended.succeeded:
            raise InterpreterError(
                f"The xcore host interpreter cannot run {path.name!r}: {ended.last_words}.", remedy=_REMEDY
            )
        with np.load(made) as arrays:
            return [arrays[name] for name in arrays.files]


def _program() -> Path:
    found = program.find(_PROGRAM)
    if found is None:
        raise CompilerError("Expected xcore-opt on the PATH, found none.", remedy=_REMEDY)
    return found
