"""What to change in a model or a conversion so that a target runs it."""

from __future__ import annotations

from .placement import Placement
from .targets import Target

_ADVICE = {
    "CONV_3D": "Use 2D convolutions over the slices, or keep the model on a CPU in float.",
    "WHILE": "Convert with Hedgerow, which fuses LSTMs and unrolls other recurrent layers.",
    "REVERSE_V2": "Use forward LSTMs; a bidirectional one needs the reversal.",
    "SELECT_V2": "Take the masking out of the model, and pad the data to the full length.",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "Use convolutions over time, or a target that has it, as Ethos-U.",
    "RESHAPE": "Pool to 1x1 with keepdims=True in place of Flatten, where the chip reads that.",
    "CUSTOM": "Replace the custom operator by built-in ones.",
}
# Beginnings of the reasons that another recipe takes away.
_WRONG_TYPE = ("it takes int", "it takes float", "it takes uint", "it has no", "TFLite Micro: Hybrid")


def for_operator(fallback: Placement, target: Target) -> str:
    """What to change so that an operator runs where it should."""
    if fallback.reason.startswith(_WRONG_TYPE):
        return other_recipe(target)
    if fallback.reason.startswith("it needs sizes"):
        return "Export the model again with every size but the batch fixed."
    name = fallback.operator.name.split(":")[0]
    return _ADVICE.get(name, f"Replace {name} in the model, or choose another target.")


def other_recipe(target: Target) -> str:
    """The recipes whose files a target takes."""
    kinds = ("int8" if kind == "compiled" else kind for kind in target.kinds)
    return f"Convert with one of the recipes {', '.join(kinds)}."
