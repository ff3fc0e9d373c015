"""The TFLite runtimes by name: which of them is installed, without importing any."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass
from typing import Literal

from ..errors import RuntimeMissingError

RuntimeName = Literal["auto", "tflite", "litert"]

# Each runtime's module and distribution, the preferred one first.
RUNTIMES = {
    "tflite": ("tflite_runtime.interpreter", "tflite-runtime"),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """Which runtime an interpreter runs on.

    Attributes:
        name: ``tflite`` or ``litert``.
        version: Version of the installed distribution.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def find_runtime(runtime: RuntimeName = "auto") -> Runtime:
    """Which runtime `interpreter.load` would take in a process without TensorFlow.

    Raises:
        RuntimeMissingError: It is not installed.
    """
    # Which loads the standard library's mail and zip: only where nothing is loaded that knows its version.
    import importlib.metadata

    names = list(RUNTIMES) if runtime == "auto" else [runtime]
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return Runtime(name, importlib.metadata.version(RUNTIMES[name][1]))
    expected = " or ".join(RUNTIMES[name][1] for name in names)
    raise RuntimeMissingError(f"Expected {expected} to be installed, found no such distribution.")


def installed() -> tuple[str, ...]:
    """The names of the runtimes that this environment has; tflite-runtime has no wheel after Python 3.11."""
    return tuple(
        name for name, (module, _) in RUNTIMES.items() if importlib.util.find_spec(module.split(".")[0])
    )
