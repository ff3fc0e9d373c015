"""Hedgerow: train centrally, convert to TFLite, refine on the devices in federated rounds over MQTT."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conversion import convert

__version__ = "0.1.0"

__all__ = ["__version__", "convert"]


def __getattr__(name: str) -> object:
    # A device imports this package too, and has no TensorFlow.
    if name == "convert":
        from .conversion import convert

        return convert
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
