"""Targets as data: one TOML file per chip or runtime in this folder, which anyone can add to."""

from __future__ import annotations

from .target import Accelerator, Constraint, Memory, Rules, Target, load, names

__all__ = ["Accelerator", "Constraint", "Memory", "Rules", "Target", "load", "names"]
