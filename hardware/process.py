"""What this process weighs and what it has loaded, as the kernel and the interpreter say."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_mib() -> float:
    """The memory of this process that is in RAM now, in MiB.

    Linux: `VmRSS` of `/proc/self/status`, proc(5). Elsewhere the peak that `getrusage` knows, never less.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def loaded_modules(names: Iterable[str]) -> tuple[str, ...]:
    """Which of the top-level modules `names` this process has imported, in the order of `names`."""
    return tuple(name for name in names if name in sys.modules)
