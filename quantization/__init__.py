"""Keras models as TFLite releases: recipes, calibration, comparison, and the manifest of what was made."""

from __future__ import annotations

from .comparison import Comparison, Score, compare
from .converter import Converter, convert
from .fine_tuning import fine_tune
from .gate import Gate, Rung
from .recipes import Recipe
from .release import Release, build_release
from .sensitivity import OperatorCost, operator_costs

__all__ = [
    "Comparison",
    "Converter",
    "Gate",
    "OperatorCost",
    "Recipe",
    "Release",
    "Rung",
    "Score",
    "build_release",
    "compare",
    "convert",
    "fine_tune",
    "operator_costs",
]
