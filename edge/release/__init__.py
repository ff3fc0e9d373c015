"""Releases on the device: checked, tried, swapped, and taken back."""

from .state import Installed, ReleaseState
from .store import ReleaseStore

__all__ = ["Installed", "ReleaseState", "ReleaseStore"]
