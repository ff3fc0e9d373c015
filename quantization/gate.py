"""The accuracy gate: for each target the best recipe whose accuracy drops by no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from numpy.typing import NDArray

from ..errors import GateError, UnsupportedLayerError
from ..hardware.targets import Target
from . import recipes
from .comparison import compare
from .converter import Converter, convert
from .fake_quant import quantizable_layers
from .sensitivity import layer_costs

Array = NDArray[Any]

LADDER = ("int8", "int16x8", "float16", "float32")
"""What is tried where no target says otherwise, the smallest and fastest first."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One recipe that was tried.

    Attributes:
        recipe: Its name.
        metric: What was measured on the held-out examples.
        reference: The Keras model's value; None if nothing could be measured.
        value: The file's value; None if the recipe cannot convert the model.
        drop: How much worse than Keras the file is.
        size_bytes: Size of the file.
        passed: Whether the drop is within the limit.
        reason: Why the recipe cannot convert the model.
    """

    recipe: str
    metric: str = ""
    reference: float | None = None
    value: float | None = None
    drop: float | None = None
    size_bytes: int = 0
    passed: bool = False
    reason: str = ""

    def __str__(self) -> str:
        if self.value is None or self.drop is None:
            return f"{self.recipe} cannot convert it ({self.reason})"
        return f"{self.recipe} {self.value:.4f} (drop {self.drop:.4f})"


class Gate:
    """Measures recipes on held-out data, each at most once.

    Attributes:
        rungs: What was tried, in order.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        calibration: Array | Sequence[Array],
        test: tuple[Array | Sequence[Array], Array],
        max_drop: float = 0.01,
        converter: Converter | None = None,
        on_rung: Callable[[Rung], None] | None = None,
    ) -> None:
        """Prepares a gate.

        Args:
            model: The Keras model.
            calibration: Examples for the recipes that need them, none of which are in `test`.
            test: Held-out examples and their answers.
            max_drop: The largest drop that passes, in the metric's unit: 0.01 is one point of accuracy.
            converter: A running converter.
            on_rung: Called after each try.
        """
        self.rungs: list[Rung] = []
        self._model = model
        self._calibration = calibration
        self._test = test
        self._max_drop = max_drop
        self._converter = converter
        self._on_rung = on_rung

    def climb(self, ladder: Sequence[str] = LADDER, *, target: str = "") -> Rung:
        """The first recipe of a ladder that keeps the accuracy.

        Args:
            ladder: Names of recipes, the best first.
            target: What it is for, for the message.

        Raises:
            GateError: None passed; the message holds the whole ladder.
            QuantizationError: The model or the data cannot be used at all.
        """
        tried = []
        for name in ladder:
            tried.append(self._measure(name))
            if tried[-1].passed:
                return tried[-1]
        table = "; ".join(map(str, tried))
        wanted = f" for {target}" if target else ""
        raise GateError(
            f"Expected a recipe{wanted} that drops by at most {self._max_drop:g}, tried: {table}."
            f"{self._cause()}",
            rungs=tuple(tried),
        )

    def _cause(self) -> str:
        """The layers that int8 costs most, as a sentence."""
        if not quantizable_layers(self._model):
            return ""
        costs = layer_costs(self._model, self._calibration)[:3]
        named = ", ".join(f"{cost.layer} ({cost.error:.3f})" for cost in costs)
        return f" Rounding one layer alone moves the output most at {named}, in standard deviations."

    def _measure(self, name: str) -> Rung:
        known = next((rung for rung in self.rungs if rung.recipe == name), None)
        if known is not None:
            return known
        try:
            data = convert(self._model, name, calibration=self._calibration, converter=self._converter)
        except UnsupportedLayerError as error:
            rung = Rung(name, reason=str(error.args[0]).rstrip("."))
        else:
            comparison = compare(self._model, {name: data}, *self._test)
            metric, drop = comparison.metric, comparison.drop(name)
            rung = Rung(
                name,
                metric=metric,
                reference=comparison.reference.metrics[metric],
                value=comparison.files[name].metrics[metric],
                drop=drop,
                size_bytes=len(data),
                passed=drop <= self._max_drop,
            )
        self.rungs.append(rung)
        if self._on_rung is not None:
            self._on_rung(rung)
        return rung


def ladder_of(target: Target) -> tuple[str, ...]:
    """The recipes whose files a target runs, the best first; compilers take int8."""
    wanted = ("int8" if kind == "compiled" else kind for kind in target.kinds)
    return tuple(kind for kind in wanted if kind in recipes.names())
