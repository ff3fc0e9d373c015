"""What a process weighs and what it has loaded, as the kernel and the interpreter say."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

# The options of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def resident_mib(pid: int | None = None) -> float:
    """The memory of a process that is in RAM now, in MiB; by default of this one.

    Linux: `VmRSS` of `/proc/PID/status`, proc(5), and 0.0 for a process that has gone. Elsewhere this
    process's peak, which is never less, and 0.0 for any other.
    """
    return _status_mib("VmRSS", "self" if pid is None else str(pid))


def peak_mib() -> float:
    """The most memory that this process ever had in RAM, in MiB: `VmHWM`, proc(5), or `ru_maxrss`."""
    return _status_mib("VmHWM", "self")


def loaded_modules(names: Iterable[str]) -> tuple[str, ...]:
    """Which of the top-level modules `names` this process has imported, in the order of `names`."""
    return tuple(name for name in names if name in sys.modules)


def limit_memory(limit_mib: int) -> None:
    """Makes allocations fail that take this process's data beyond `limit_mib`: setrlimit(2)."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mib << 20, limit_mib << 20))


def return_large_memory_at_once() -> None:
    """Keeps what is larger than 128 KiB out of the heap, and gives it back as soon as it is freed.

    glibc alone raises that limit to the size of what was freed, and then keeps it: mallopt(3). One heap for
    all threads, too.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            for option, value in (
                (_M_MMAP_THRESHOLD, 128 << 10),
                (_M_TRIM_THRESHOLD, 128 << 10),
                (_M_ARENA_MAX, 1),
            ):
                set_option(option, value)


def return_freed_memory() -> None:
    """Gives back what was freed where the C library keeps it for later: malloc_trim(3) of glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _status_mib(field: str, process: str) -> float:
    if sys.platform == "linux":
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)
    if process != "self":
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
