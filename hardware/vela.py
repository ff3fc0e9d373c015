"""Compiles an int8 file for Arm Ethos-U NPUs with Vela: the only file that knows Vela.

Vela keeps its operators in global tables and ends the process on some errors, so that it runs in a process of
its own. What it leaves to the CPU, and why, is only in its printed report; the rest is in its CSV file.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import CompilerError
from . import program
from .compilation import CpuOperator
from .flatbuffer import read_model

_BUFFERS = 4  # Field of the buffers in a model.
_PRODUCTS = {0: "u55", 1: "u65", 2: "u85"}
_CPU = re.compile(r"^CPU operators = (\d+)", re.MULTILINE)
_NPU = re.compile(r"^NPU operators = (\d+)", re.MULTILINE)
_REASON = re.compile(
    r"^Warning \([a-z ]+\) operator: (?P<operator>\S+), ofm: '(?P<tensor>[^']*)'\n"
    r"Reason: (?P<reason>.+(?:\n(?!Warning|Network|\n).+)*)",
    re.MULTILINE,
)
_CONFIGURATION = re.compile(r"ethos-u(55-(32|64|128|256)|65-(256|512)|85-(128|256|512|1024|2048))")


@dataclass(frozen=True, slots=True)
class VelaReport:
    """What Vela says about a compiled model.

    Attributes:
        npu_percent: Share of the operators, as Vela splits them, that run on the NPU.
        cycles: Estimated cycles of one inference.
        inference_ms: Those cycles at the configuration's clock.
        sram_kib: Peak SRAM of the activations.
        flash_kib: Weights and commands.
        macs: Multiply-accumulates of one inference.
        cpu_operators: What stays on the CPU, in the order of the graph.
        output: The compiled file.
        warnings: What the numbers assume, in Vela's words.
    """

    npu_percent: float
    cycles: int
    inference_ms: float
    sram_kib: float
    flash_kib: float
    macs: int
    cpu_operators: tuple[CpuOperator, ...]
    output: Path
    warnings: tuple[str, ...] = ()


def is_installed() -> bool:
    """Whether Vela is here."""
    return importlib.util.find_spec("ethosu") is not None


def compile(path: str | Path, accelerator_config: str, out_dir: str | Path) -> VelaReport:
    """Compiles a full-int8 `.tflite` and writes `<name>_vela.tflite` into `out_dir`.

    Args:
        path: The int8 file.
        accelerator_config: Vela's name of the NPU, such as `ethos-u55-128`.
        out_dir: Folder of the compiled file; made if missing.

    Raises:
        CompilerError: Vela is not installed, does not know the configuration, or failed.
    """
    path, out_dir = Path(path), Path(out_dir)
    if not _CONFIGURATION.fullmatch(accelerator_config):
        raise CompilerError(
            f"Expected an Ethos-U configuration such as ethos-u55-128, received {accelerator_config!r}."
        )
    if not path.is_file():
        raise CompilerError(f"Expected a .tflite file, {str(path)!r} does not exist.", path=str(path))
    if not is_installed():
        raise CompilerError("Expected the Ethos-U compiler ethos-u-vela to be installed, found none.")
    with tempfile.TemporaryDirectory() as folder:
        report = _run(path, accelerator_config, Path(folder))
        summary = _summary(Path(folder), path)
        compiled = Path(folder) / f"{path.stem}_vela.tflite"
        if not compiled.is_file():
            raise CompilerError(f"Vela wrote no file for {path.name!r}.", path=str(path))
        out_dir.mkdir(parents=True, exist_ok=True)
        output = out_dir / compiled.name
        shutil.copyfile(compiled, output)
    return _report(report, summary, output)


def configuration_of(source: str | Path) -> str:
    """The configuration that a file was compiled for; empty for a file that Vela did not make.

    The actions for the driver begin with `COP1` and a configuration: the product in the upper four bits of
    its second word, the binary logarithm of its multipliers in the lower four (ethosu.vela.driver_actions).
    """
    for buffer in read_model(source).tables(_BUFFERS):
        content = buffer.content(0)
        if content.startswith(b"COP1") and len(content) >= 12:
            (word,) = struct.unpack_from("<I", content, 8)
            product = _PRODUCTS.get(word >> 28, "unknown")
            return f"ethos-{product}-{1 << (word & 0xF)}"
    return ""


def _run(path: Path, accelerator_config: str, folder: Path) -> str:
    options = ("--accelerator-config", accelerator_config, "--output-dir", folder)
    ended = program.run_module("ethosu.vela", path.resolve(), *options, folder=folder)
    if not ended.succeeded:
        raise CompilerError(
            f"Vela could not compile {path.name!r} for {accelerator_config}: {ended.last_words}.",
            remedy="Convert with the recipe int8, for inference alone.",
            path=str(path),
        )
    return ended.output


def _summary(folder: Path, path: Path) -> dict[str, str]:
    files = sorted(folder.glob("*_summary_*.csv"))
    if len(files) != 1:
        raise CompilerError(f"Expected one summary from Vela for {path.name!r}, found {len(files)}.")
    with files[0].open(newline="") as stream:
        return next(csv.DictReader(stream))


def _report(text: str, summary: dict[str, str], output: Path) -> VelaReport:
    cpu, npu = (int(match.group(1)) if (match := pattern.search(text)) else 0 for pattern in (_CPU, _NPU))
    flash = sum(float(summary[f"{area}_memory_used"]) for area in ("on_chip_flash", "off_chip_flash", "dram"))
    warnings = tuple(line for line in text.splitlines() if line.startswith("Warning: "))
    return VelaReport(
        npu_percent=100.0 * npu / (cpu + npu) if cpu + npu else 0.0,
        cycles=round(float(summary["cycles_total"])),
        inference_ms=1e3 * float(summary["inference_time"]),
        sram_kib=float(summary["sram_memory_used"]),
        flash_kib=flash,
        macs=round(float(summary["nn_macs"])),
        cpu_operators=tuple(
            CpuOperator(found["operator"], found["tensor"], " ".join(found["reason"].split()))
            for found in _REASON.finditer(text)
        ),
        output=output,
        warnings=warnings,
    )
