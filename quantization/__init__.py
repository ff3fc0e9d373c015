"""Keras models as TFLite releases: recipes, calibration, comparison, and the manifest of what was made."""

from __future__ import annotations

from .comparison import Comparison, Score, compare
from .converter import Converter, convert
from .recipes import Recipe
from .release import Release, build_release

__all__ = ["Comparison", "Converter", "Recipe", "Release", "Score", "build_release", "compare", "convert"]
