"""Targets as data: one TOML file per chip or runtime in this folder, which anyone can add to."""

from __future__ import annotations

from .target import Accelerator, Memory, Rules, Target, load, names

__all__ = ["Accelerator", "Memory", "Rules", "Target", "load", "names"]
