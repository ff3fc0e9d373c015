"""The compilers of accelerators behind one function: which of them is here, and what it makes of a file."""

from __future__ import annotations

from pathlib import Path

from ..errors import CompilerError
from . import edgetpu, litert_aot, vela, xcore
from .compilation import Compilation
from .targets import Accelerator, Target


def missing(target: Target) -> str:
    """What to install so that files are compiled for a target; empty if nothing is needed."""
    accelerator = target.accelerator
    match accelerator.compiler if accelerator else None:
        case "vela" if not vela.is_installed():
            return "ethos-u-vela, with the extra hedgerow[hardware]"
        case "xcore-opt" if not xcore.is_installed():
            return "xmos-ai-tools, with the extra hedgerow[xmos] or in an environment on the PATH"
        case "edgetpu_compiler" if not edgetpu.is_installed():
            return "edgetpu_compiler, a Debian package of coral.ai, on the PATH"
        case "litert-aot" if accelerator and not litert_aot.is_installed(accelerator.configuration):
            return f"{litert_aot.sdk(accelerator.configuration)}, which has its maker's own terms"
        case _:
            return ""


def compile_for(target: Target, path: str | Path, out_dir: str | Path) -> Compilation:
    """Compiles a file for a target's accelerator and writes what the compiler made into `out_dir`.

    Args:
        target: A target with a compiler.
        path: The file that its compiler takes, as a rule full int8.
        out_dir: A folder; made if missing.

    Raises:
        CompilerError: The target has no compiler, or it is missing or failed.
    """
    path, out_dir, accelerator = Path(path), Path(out_dir), target.accelerator
    if accelerator is None or accelerator.compiler is None:
        raise CompilerError(
            f"Expected a target with a compiler, {target.name!r} runs files as they are.",
            remedy="Copy the file to the device.",
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    match accelerator.compiler:
        case "vela":
            return _with_vela(path, accelerator, out_dir)
        case "xcore-opt":
            return xcore.compile(path, out_dir)
        case "edgetpu_compiler":
            return edgetpu.compile(path, out_dir)
        case "litert-aot":
            return litert_aot.compile(path, accelerator.configuration, out_dir)


def _with_vela(path: Path, accelerator: Accelerator, out_dir: Path) -> Compilation:
    report = vela.compile(path, accelerator.configuration, out_dir)
    return Compilation(
        compiler="Vela",
        output=report.output,
        weights_kib=report.flash_kib,
        activations_kib=report.sram_kib,
        cpu_operators=report.cpu_operators,
        cycles=report.cycles,
        inference_ms=report.inference_ms,
        accelerated_percent=report.npu_percent,
        warnings=report.warnings,
    )
