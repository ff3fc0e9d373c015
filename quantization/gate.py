"""The accuracy gate: for each target the best recipe whose accuracy drops by no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import GateError, UnsupportedLayerError
from ..hardware.graph import read_graphs
from ..hardware.targets import Target
from . import recipes
from .comparison import Comparison, compare, predict
from .converter import Converter
from .fake_quant import quantizable_layers
from .fine_tuning import fine_tune, loss_for
from .foreign_model import is_foreign
from .mixing import with_movements
from .sensitivity import LIMIT, OperatorCost, operator_costs

Array = NDArray[Any]
Labelled = tuple[Array | Sequence[Array], Array]

LADDER = ("int8", "int8-ranges", "mixed", "int16x8", "int8-tuned", "float16", "float32")
"""What is tried where no target says otherwise, the smallest and fastest first."""

TUNING_EPOCHS = 5
_MIXES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Rung:
    """One try.

    Attributes:
        recipe: The recipe's name.
        metric: What was measured on the held-out examples.
        reference: The Keras model's value; None if nothing could be measured.
        value: The file's value; None if the recipe cannot convert the model.
        drop: How much worse than Keras the file is.
        size_bytes: Size of the file.
        passed: Whether the drop is within the limit.
        note: What was done: which layers stay float, how far the loss fell.
        reason: Why the recipe cannot convert the model.
    """

    recipe: str
    metric: str = ""
    reference: float | None = None
    value: float | None = None
    drop: float | None = None
    size_bytes: int = 0
    passed: bool = False
    note: str = ""
    reason: str = ""

    def __str__(self) -> str:
        name = f"{self.recipe} with {self.note}" if self.note else self.recipe
        if self.value is None or self.drop is None:
            return f"{name} cannot convert it ({self.reason})"
        return f"{name} {self.value:.4f} (drop {self.drop:.4f})"


class Gate:
    """Measures recipes on held-out data, each at most once.

    Attributes:
        rungs: What was tried, in order.
        files: The file of each recipe that passed.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        calibration: Array | Sequence[Array],
        test: Labelled,
        converter: Converter,
        training: Labelled | None = None,
        max_drop: float = 0.01,
        seed: int = 0,
        on_rung: Callable[[Rung], None] | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Prepares a gate.

        Args:
            model: The model.
            calibration: Examples for the recipes that need them, none of which are in `test`.
            test: Held-out examples and their answers.
            converter: A running converter.
            training: Examples and their answers for fine-tuning, none of which are in `test`.
            max_drop: The largest drop that passes, in the metric's unit: 0.01 is one point of accuracy.
            seed: Of fine-tuning.
            on_rung: Called after each try.
            on_progress: Called with a line of text when something begins.
        """
        self.rungs: list[Rung] = []
        self.files: dict[str, bytes] = {}
        self._comparisons: dict[str, Comparison] = {}
        self._model = model
        self._calibration = calibration
        self._test = test
        self._converter = converter
        self._training = training
        self._max_drop = max_drop
        self._seed = seed
        self._on_rung = on_rung or (lambda _: None)
        self._say = on_progress or (lambda _: None)
        self._costs: tuple[OperatorCost, ...] | None = None
        self._expected: NDArray[np.float32] | None = None

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
            recipes.get(name)
            known = [rung for rung in self.rungs if rung.recipe == name]
            for rung in known or self._try(name):
                tried.append(rung)
                if rung.passed:
                    return rung
        wanted = f" for {target}" if target else ""
        raise GateError(
            f"Expected a recipe{wanted} that drops by at most {self._max_drop:g}, tried: "
            f"{'; '.join(map(str, tried))}.{self._cause()}",
            rungs=tuple(tried),
        )

    def costs(self) -> tuple[OperatorCost, ...]:
        """What int8 costs in each operator, the costliest first; empty if int8 cannot convert the model."""
        if self._costs is None:
            try:
                calibrated = self._calibrated()
            except UnsupportedLayerError:
                self._costs = ()
            else:
                self._costs = operator_costs(
                    calibrated,
                    self._calibration,
                    converter=self._converter,
                    on_operator=lambda i, n: self._say(f"measuring what int8 costs in operator {i} of {n}"),
                )
        return self._costs

    def _try(self, name: str) -> Iterator[Rung]:
        """Tries a recipe, a mix with more and more float layers."""
        self._say(f"trying {name}")
        try:
            if name == "mixed":
                yield from self._mixes()
            elif name == "int8-tuned":
                yield self._tuned()
            else:
                data = self._converter.convert(self._model, name, calibration=self._calibration)
                yield self._measured(name, data)
        except UnsupportedLayerError as error:
            yield self._noted(Rung(name, reason=str(error.args[0]).rstrip(".")))

    def _mixes(self) -> Iterator[Rung]:
        costs = [cost for cost in self.costs() if cost.error > 0]
        if len(costs) < 2:
            raise UnsupportedLayerError(
                f"Expected a file of 2 to {LIMIT} operators that int8 costs something, found {len(costs)}."
            )
        calibrated = self._calibrated(clip=self._ranges_help())
        graph = read_graphs(calibrated).graphs[0]
        for count in (number for number in _MIXES if number < len(costs)):
            names = with_movements(graph, [cost.output for cost in costs[:count]])
            data = self._converter.quantize(calibrated, float_operators=names)
            note = f"{', '.join(cost.layer for cost in costs[:count])} in float32"
            yield self._measured("mixed", data, note)

    def _tuned(self) -> Rung:
        if self._training is None or is_foreign(self._model) or not quantizable_layers(self._model):
            raise UnsupportedLayerError(
                "Fine-tuning needs labelled examples beside those of the test, and a Keras model with Dense "
                "or convolution layers."
            )
        losses: list[float] = []

        def on_epoch(epoch: int, loss: float) -> None:
            losses.append(loss)
            self._say(f"fine-tuning, epoch {epoch} of {TUNING_EPOCHS}: loss {loss:.4f}")

        x, y = self._training
        tuned = fine_tune(
            self._model,
            x,
            y,
            loss=loss_for(self._model, y),
            epochs=TUNING_EPOCHS,
            seed=self._seed,
            on_epoch=on_epoch,
        )
        recipe = "int8-ranges" if self._ranges_help() else "int8"
        data = self._converter.convert(tuned, recipe, calibration=self._calibration)
        note = f"{TUNING_EPOCHS} epochs on {len(y)} examples, loss {losses[0]:.4f} to {losses[-1]:.4f}"
        return self._measured("int8-tuned", data, note)

    def _measured(self, name: str, data: bytes, note: str = "") -> Rung:
        self._say(f"measuring {name} on {len(self._test[1])} examples")
        if self._expected is None:
            self._expected = predict(self._model, self._test[0])
        comparison = compare(self._model, {name: data}, *self._test, expected=self._expected)
        metric, drop = comparison.metric, comparison.drop(name)
        rung = Rung(
            name,
            metric=metric,
            reference=comparison.reference.metrics[metric],
            value=comparison.files[name].metrics[metric],
            drop=drop,
            size_bytes=len(data),
            passed=drop <= self._max_drop,
            note=note,
        )
        if rung.passed:
            self.files[name], self._comparisons[name] = data, comparison
        return self._noted(rung)

    def _noted(self, rung: Rung) -> Rung:
        self.rungs.append(rung)
        self._on_rung(rung)
        return rung

    def _calibrated(self, *, clip: bool = False) -> bytes:
        return self._converter.calibrate(self._model, self._calibration, clip=clip)

    def _ranges_help(self) -> bool:
        """Whether the ranges of least error did better than those from smallest to largest."""
        drops = {rung.recipe: rung.drop for rung in self.rungs if rung.drop is not None}
        return drops.get("int8-ranges", 1.0) < drops.get("int8", 1.0)

    def comparison(self, recipes_used: Sequence[str]) -> Comparison:
        """How the files of some recipes that passed answer the test, side by side."""
        found = [self._comparisons[name] for name in recipes_used]
        files = {name: one.files[name] for name, one in zip(recipes_used, found, strict=True)}
        return Comparison(found[0].reference, files, found[0].examples)

    def _cause(self) -> str:
        """The layers that int8 costs most, as a sentence."""
        named = ", ".join(f"{cost.layer} ({cost.error:.3f})" for cost in self.costs()[:3])
        return (
            f" In int8 alone, these move the output most, in standard deviations: {named}." if named else ""
        )


def ladder_of(target: Target) -> tuple[str, ...]:
    """The recipes of the ladder whose files a target runs."""
    return tuple(name for name in LADDER if recipes.get(name).runs_on(target))
