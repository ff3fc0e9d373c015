"""How things are on this device, as Linux tells it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .readiness import Conditions
from .sample_count import count_added, count_samples

# Interface types whose traffic is likely to cost, from /sys/class/net/*/uevent, and names without a type.
_METERED_TYPES = ("wwan",)
_METERED_NAMES = ("wwan", "ppp", "rmnet", "usb")


def probe(samples: Path, *, trained_at: int = 0, own_load: float = 0.0, root: Path = Path("/")) -> Conditions:
    """Looks at the machine and at the samples folder.

    Args:
        samples: The samples folder.
        trained_at: How many samples had ever been added at the last training.
        own_load: Load that this device's own training makes, to be left out.
        root: Where `sys` and `proc` are.
    """
    supplies = [_fields(path / "uevent") for path in _folders(root / "sys/class/power_supply")]
    mains = [one for one in supplies if one.get("POWER_SUPPLY_TYPE") in ("Mains", "USB", "Wireless")]
    charges = [
        float(one["POWER_SUPPLY_CAPACITY"])
        for one in supplies
        if one.get("POWER_SUPPLY_TYPE") == "Battery"
        and one.get("POWER_SUPPLY_SCOPE") != "Device"
        and one.get("POWER_SUPPLY_CAPACITY", "").isdigit()
    ]
    zones = (_number(path / "temp") for path in _folders(root / "sys/class/thermal"))
    temperatures = [degrees / 1000 for degrees in zones if degrees is not None]
    added = count_added(samples)
    now = time.localtime()
    return Conditions(
        external_power=any(one.get("POWER_SUPPLY_ONLINE") == "1" for one in mains) if mains else None,
        battery_percent=min(charges, default=None),
        temperature_celsius=max(temperatures, default=None),
        load=_load(root, own_load),
        metered=_metered(root),
        minute_of_day=now.tm_hour * 60 + now.tm_min,
        samples=count_samples(samples, "train"),
        new_samples=None if added is None else max(added - trained_at, 0),
    )


def _load(root: Path, own_load: float) -> float | None:
    try:
        minute = float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return round(max(minute - own_load, 0.0) / (os.cpu_count() or 1), 2)


def _metered(root: Path) -> bool | None:
    """Whether the interface of the default route is a modem; None without a default route."""
    try:
        routes = [line.split() for line in (root / "proc/net/route").read_text().splitlines()[1:]]
    except OSError:
        return None
    names = [route[0] for route in routes if len(route) > 7 and route[1] == "00000000" == route[7]]
    if not names:
        return None
    kinds = (_fields(root / "sys/class/net" / name / "uevent").get("DEVTYPE", "") for name in names)
    return any(
        kind in _METERED_TYPES or name.startswith(_METERED_NAMES)
        for name, kind in zip(names, kinds, strict=True)
    )


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _fields(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
