"""Recipes: how the numbers of a model are stored and computed in its TFLite file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ..errors import RecipeError
from ..hardware.targets import Target
from ..protocol.manifest import Kind


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a Keras model becomes a file for inference.

    Attributes:
        name: Its name in the API and on the command line.
        title: One line for people.
        weights: Type that the weights are stored in.
        activations: Type that the tensors between operators have.
        kind: The manifest's word for the files it makes.
        clips_ranges: Whether an activation's range is the one that rounds with the least error, and not from
            the smallest to the largest value seen.
        mixes: Whether the operators in `float_operators` stay in float32.
        float_operators: Names of their outputs in the file; where a mix names none, the costliest is taken.
        tunes: Whether the model is fine-tuned with int8's rounding first, which takes labelled examples.
    """

    name: str
    title: str
    weights: Literal["float32", "float16", "int8", "int4"]
    activations: Literal["float32", "int8", "int16"]
    kind: Kind
    clips_ranges: bool = False
    mixes: bool = False
    float_operators: tuple[str, ...] = ()
    tunes: bool = False

    @property
    def needs_calibration(self) -> bool:
        """Whether the ranges of the activations must be measured on examples."""
        return self.activations != "float32"

    @property
    def fuses_lstm(self) -> bool:
        """Whether the fused LSTM operator has kernels for these types; it has none for int16 activations."""
        return self.activations != "int16"

    def keeping(self, operators: tuple[str, ...]) -> Recipe:
        """The same recipe with these operators in float32."""
        return dataclasses.replace(self, float_operators=operators)

    def runs_on(self, target: Target) -> bool:
        """Whether a target reads the files of this recipe; compilers take int8, their CPU takes float."""
        if self.kind == "int8":
            return bool({"int8", "compiled"} & set(target.kinds))
        if self.kind == "mixed":
            has_cpu = target.accelerator is not None or "float32" in target.kinds
            return has_cpu and bool({"int8", "compiled"} & set(target.kinds))
        return self.kind in target.kinds


_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", "everything in float32: the numbers of Keras", "float32", "float32", "float32"),
        Recipe("float16", "weights in float16, computed in float32", "float16", "float32", "float16"),
        Recipe(
            "dynamic", "weights in int8, activations quantized as they come", "int8", "float32", "dynamic"
        ),
        Recipe("int8", "full int8: weights, activations, inputs and outputs", "int8", "int8", "int8"),
        Recipe(
            "int8-ranges",
            "full int8, each range chosen for the least error of rounding",
            "int8",
            "int8",
            "int8",
            clips_ranges=True,
        ),
        Recipe(
            "mixed",
            "int8, but for the operators that cost the most accuracy: those stay in float32",
            "int8",
            "int8",
            "mixed",
            mixes=True,
        ),
        Recipe("int16x8", "weights in int8, activations in int16", "int8", "int16", "int16x8"),
        Recipe(
            "int8-tuned",
            "full int8 of the model after some epochs of training with int8's rounding",
            "int8",
            "int8",
            "int8",
            tunes=True,
        ),
        Recipe("int4", "weights in int4, computed in float32; LiteRT only", "int4", "float32", "int4"),
    )
}


def names() -> tuple[str, ...]:
    """Every recipe's name."""
    return tuple(_RECIPES)


def get(recipe: str | Recipe) -> Recipe:
    """The recipe of that name; a recipe is returned as it is.

    Raises:
        RecipeError: There is none.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in _RECIPES:
        raise RecipeError(
            f"Expected a recipe out of {', '.join(_RECIPES)}; received {recipe!r}.", recipe=recipe
        )
    return _RECIPES[recipe]
