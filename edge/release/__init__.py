"""Releases on the device: checked, tried, swapped, and taken back."""

from .store import Installed, ReleaseStore

__all__ = ["Installed", "ReleaseStore"]
