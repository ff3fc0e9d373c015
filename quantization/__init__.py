"""Keras models as TFLite releases: recipes, calibration, comparison, and the manifest of what was made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import Comparison, Score, compare
    from .converter import Converter, convert
    from .converter_process import ConverterProcess
    from .fine_tuning import fine_tune
    from .gate import Gate, Rung
    from .recipes import Recipe
    from .release import Release, build_release
    from .sensitivity import OperatorCost, operator_costs

_HOMES = {
    "Comparison": "comparison",
    "Converter": "converter",
    "ConverterProcess": "converter_process",
    "Gate": "gate",
    "OperatorCost": "sensitivity",
    "Recipe": "recipes",
    "Release": "release",
    "Rung": "gate",
    "Score": "comparison",
    "build_release": "release",
    "compare": "comparison",
    "convert": "converter",
    "fine_tune": "fine_tuning",
    "operator_costs": "sensitivity",
}

__all__ = [
    "Comparison",
    "Converter",
    "ConverterProcess",
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


def __getattr__(name: str) -> object:
    # TensorFlow takes seconds: the converter's process is to be started before it is imported here.
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
