"""Compiles an int8 file for Coral's Edge TPU with edgetpu_compiler, where that is on the PATH.

It is a Debian package of Google's and in no registry. What it prints was written down from its documentation
(coral.ai/docs/edgetpu/compiler) and from logs of version 16.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ..errors import CompilerError
from . import program
from .compilation import Compilation, CpuOperator
from .graph import Graph, read_graphs

_PROGRAM = "edgetpu_compiler"
_REMEDY = (
    "Install edgetpu_compiler as coral.ai/docs/edgetpu/compiler says (x86-64 Debian), or check by rules."
)
_ROW = re.compile(r"^(?P<operator>[A-Z][A-Z0-9_]+)\s+(?P<count>\d+)\s+(?P<status>\S.*)$", re.MULTILINE)
_MEMORY = re.compile(
    r"memory used for (?:caching model|streaming uncached model) parameters: ([\d.]+)(B|[KM]iB)"
)
_KIB = {"B": 1 / 1024, "KiB": 1.0, "MiB": 1024.0}


def is_installed() -> bool:
    """Whether edgetpu_compiler is on the PATH."""
    return program.find(_PROGRAM) is not None


def compile(path: Path, out_dir: Path) -> Compilation:
    """Compiles a file and writes `<name>_edgetpu.tflite` into `out_dir`.

    Raises:
        CompilerError: edgetpu_compiler is missing or failed.
    """
    found = program.find(_PROGRAM)
    if found is None:
        raise CompilerError("Expected edgetpu_compiler on the PATH, found none.", remedy=_REMEDY)
    ended = program.run([found, "-s", "-o", out_dir, path.resolve()])
    output = out_dir / f"{path.stem}_edgetpu.tflite"
    if not ended.succeeded or not output.is_file():
        raise CompilerError(
            f"edgetpu_compiler could not compile {path.name!r}: {ended.last_words}.",
            remedy="Convert with the recipe int8, for inference alone.",
            path=str(path),
        )
    memory = [float(size) * _KIB[unit] for size, unit in _MEMORY.findall(ended.output)]
    return Compilation(
        compiler=_PROGRAM,
        output=output,
        weights_kib=sum(memory) if memory else output.stat().st_size / 1024,
        cpu_operators=_left(ended.output, read_graphs(path).graphs[0]),
    )


def _left(text: str, graph: Graph) -> tuple[CpuOperator, ...]:
    """The operators that are not mapped: the compiler counts them by name, and takes only a beginning."""
    reasons = {}
    counts: Counter[str] = Counter()
    for row in _ROW.finditer(text):
        if not row["status"].startswith("Mapped"):
            counts[row["operator"]] += int(row["count"])
            reasons[row["operator"]] = row["status"].strip()
    left = []
    for operator in reversed(graph.operators):
        if counts[operator.name] > 0:
            counts[operator.name] -= 1
            name = graph.output_tensors(operator)[0].name
            left.append(CpuOperator(operator.name, name, reasons[operator.name]))
    return tuple(reversed(left))
