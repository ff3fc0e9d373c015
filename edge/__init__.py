"""The agent on a device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .device import Device
    from .trainer import FitResult, Trainer

__all__ = ["Device", "FitResult", "Trainer"]
_MODULES = {"Device": ".device", "FitResult": ".trainer", "Trainer": ".trainer"}


def __getattr__(name: str) -> object:
    """Imports what is asked for only then: the daemon needs no numpy, and stays 15 MiB smaller without."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
