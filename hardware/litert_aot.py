"""Compiles a file for a phone's NPU ahead of time with LiteRT: the only file that knows `ai_edge_litert.aot`.

The compiler's plug-ins come with ai-edge-litert; each needs its maker's SDK, a package with terms of its own.
Compilation runs in a separate process: `python -m hedgerow.hardware.litert_aot MODEL OUT VENDOR CHIP`.
Source: google-ai-edge/LiteRT, litert/python/aot.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path

from ..errors import CompilerError
from . import program
from .compilation import Compilation, CpuOperator, left_on_cpu
from .graph import read_graphs

# Per maker: the module of its targets in ai_edge_litert.aot.vendors, and its SDK's distribution.
_MAKERS = {
    "qualcomm": ("qualcomm", "ai-edge-litert-sdk-qualcomm"),
    "mediatek": ("mediatek", "ai-edge-litert-sdk-mediatek"),
    "google-tensor": ("google_tensor", "ai-edge-litert-sdk-google-tensor"),
}

_LOG = re.compile(r"See (\S+\.error) for details")
_TELLING = re.compile(r"ERROR|Could not|[Uu]nsupported|No compiler plugin")


def is_installed(configuration: str) -> bool:
    """Whether LiteRT and the SDK that a configuration needs are here."""
    names = ("ai_edge_litert", sdk(configuration).replace("-", "_"))
    return all(importlib.util.find_spec(name) is not None for name in names)


def sdk(configuration: str) -> str:
    """The distribution that a configuration such as `qualcomm/SM8650` needs.

    Raises:
        CompilerError: The configuration is not a maker and a chip.
    """
    maker, _, chip = configuration.partition("/")
    if maker not in _MAKERS or not chip:
        raise CompilerError(
            f"Expected a configuration of one of {', '.join(_MAKERS)} with a chip, such as qualcomm/SM8650; "
            f"received {configuration!r}.",
            remedy="Correct the target's description.",
        )
    return _MAKERS[maker][1]


def compile(path: Path, configuration: str, out_dir: Path) -> Compilation:
    """Compiles a file and writes `<name>_npu.tflite` into `out_dir`.

    Args:
        path: The file.
        configuration: Maker and chip, such as `mediatek/MT6989`.
        out_dir: Where to.

    Raises:
        CompilerError: The SDK is missing, does not know the chip, or the compiler failed.
    """
    package = sdk(configuration)
    if not is_installed(configuration):
        raise CompilerError(
            f"Expected the package {package} beside ai-edge-litert, found none.",
            remedy=f"Install {package} if you accept its maker's terms (Linux x86-64), or check by rules.",
        )
    maker, _, chip = configuration.partition("/")
    output = out_dir / f"{path.stem}_npu.tflite"
    ended = program.run_module(__name__, path.resolve(), output, _MAKERS[maker][0], chip, folder=out_dir)
    if not ended.succeeded or not output.is_file():
        raise CompilerError(
            f"LiteRT could not compile {path.name!r} for {configuration}: {ended.last_words}.",
            remedy="Convert with the recipe int8, for inference alone.",
            path=str(path),
        )
    taken = json.loads(ended.output.splitlines()[-1])
    left = left_on_cpu(read_graphs(path).graphs[0], read_graphs(output).graphs[0])
    return Compilation(
        compiler=f"LiteRT AOT with {package}",
        output=output,
        weights_kib=output.stat().st_size / 1024,
        cpu_operators=tuple(
            CpuOperator(one.operator, one.tensor, f"{package} left it to the CPU") for one in left
        ),
        accelerated_percent=100.0 * taken["taken"] / max(1, taken["all"]),
    )


def _main(model: str, output: str, vendor: str, chip: str) -> None:
    # Imported by name, as the interpreter is: no type information comes with either.
    aot = importlib.import_module("ai_edge_litert.aot.aot_compile")
    target = importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor}.target")
    try:
        chosen = target.SocModel(chip)
    except ValueError:
        sys.exit(f"Error: expected a chip out of {', '.join(target.SocModel)}; received {chip!r}")
    result = aot.aot_compile(model, output_dir=".", target=target.Target(chosen), keep_going=True)
    for _, words in result.failed_backends:
        # LiteRT's progress bar ends without a newline.
        sys.exit(f"\nError: {_explained(words)}")
    (compiled,) = result.models
    if compiled.in_memory:
        Path(output).write_bytes(compiled.model_bytes)
    else:
        compiled.path.replace(output)
    stats = compiled.partition_stats.subgraph_stats if compiled.partition_stats else []
    taken = {
        "taken": sum(one.num_ops_offloaded for one in stats),
        "all": sum(one.num_total_ops for one in stats),
    }
    sys.stdout.write(json.dumps(taken) + "\n")


def _explained(words: str) -> str:
    """LiteRT's words for a failure, with the telling lines of the log file that they name."""
    named = _LOG.search(words)
    if named is None or not Path(named[1]).is_file():
        return words
    log = Path(named[1])
    lines = [line for line in log.read_text(errors="replace").splitlines() if _TELLING.search(line)]
    log.unlink()
    return "; ".join(lines) or words


if __name__ == "__main__":
    _main(*sys.argv[1:])
