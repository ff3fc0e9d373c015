"""What the machine that this runs on can do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

from . import program

_RUNTIMES = ("tflite-runtime", "ai-edge-litert", "tflite-micro")
_COMPILERS = {"vela": "ethos-u-vela"}
_PROGRAMS = ("edgetpu_compiler", "xcore-opt")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's capabilities.

    Attributes:
        arch: Machine type as the kernel names it, such as `x86_64` or `aarch64`.
        system: `Linux`, `Darwin` or `Windows`.
        cores: Cores that this process may use.
        memory_mib: RAM, 0 where the system does not say.
        python: Version of this Python.
        runtimes: Version of every TFLite runtime installed, by distribution name.
        compilers: Version (or path, for programs) of every accelerator's compiler that was found.
    """

    arch: str
    system: str
    cores: int
    memory_mib: int
    python: str
    runtimes: dict[str, str]
    compilers: dict[str, str]


def probe() -> Machine:
    """Looks at this machine without importing any runtime."""
    compilers = {name: found for name, wheel in _COMPILERS.items() if (found := _version(wheel))}
    programs = {name: str(path) for name in _PROGRAMS if (path := program.find(name))}
    return Machine(
        arch=platform.machine(),
        system=platform.system(),
        cores=_cores(),
        memory_mib=_memory_mib(),
        python=platform.python_version(),
        runtimes={name: found for name in _RUNTIMES if (found := _version(name))},
        compilers=compilers | programs,
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_mib() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (ValueError, OSError, AttributeError):
        return 0
