"""Which part of a model this device trains when the task leaves it open: as much as its memory allows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..hardware.process import resident_mib

# Half of what is free: others on the device need memory while it trains, too.
SHARE_OF_FREE = 0.5


def choose_variant(needs: Mapping[str, int], trained: Mapping[str, int], budget_bytes: int) -> str:
    """The variant that trains the most and fits; the one that needs least where none fits.

    Args:
        needs: Working memory of each variant, in bytes.
        trained: How many weights each one trains.
        budget_bytes: What there is.
    """
    fitting = [name for name in needs if needs[name] <= budget_bytes]
    if not fitting:
        return min(needs, key=lambda name: needs[name])
    return max(fitting, key=lambda name: (trained[name], -needs[name]))


def working_memory(program: Path, variants: tuple[str, ...]) -> dict[str, int]:
    """What each training signature needs: its tensors at their most, and the variables that it touches."""
    # Which is not asked of a file with one variant, and is not loaded then.
    from ..hardware.inspection import inspect_file

    reports = inspect_file(program).signatures
    return {name: reports[name].peak_bytes + reports[name].weight_bytes for name in variants}


def memory_budget(limit_mib: int, *, root: Path = Path("/")) -> int:
    """The bytes that training may use now: below its limit, and of the machine's free memory a part.

    Args:
        limit_mib: Of this process; 0 is none.
        root: Where `proc` is.
    """
    free = _available_bytes(root)
    budgets = [] if free is None else [int(free * SHARE_OF_FREE)]
    if limit_mib:
        budgets.append(max(int((limit_mib - resident_mib()) * (1 << 20)), 0))
    return min(budgets, default=1 << 62)


def _available_bytes(root: Path) -> int | None:
    """`MemAvailable` of /proc/meminfo, proc(5)."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) << 10 if found and found[0].isdigit() else None
