"""The agent on a device."""

from .trainer import FitResult, Trainer

__all__ = ["FitResult", "Trainer"]
