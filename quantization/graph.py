"""A Keras model as a SavedModel that converts to a small file: a batch of 1, and weights as constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from ..errors import DynamicShapeError, QuantizationError, UnsupportedLayerError
from . import foreign_model
from .recipes import Recipe
from .recurrence import convertible_recurrence

SIGNATURE = "infer"
"""Name of the signature that every file for inference has."""

_FLOAT_ONLY = {
    "Conv3D": "TFLite has no int8 kernel of CONV_3D",
    "Conv3DTranspose": "TFLite has no int8 kernel of CONV_3D_TRANSPOSE",
}
_FLOAT_ONLY_OPERATORS = {
    "CONV_3D": "TFLite has no int8 kernel of it",
    "CONV_3D_TRANSPOSE": "TFLite has no int8 kernel of it",
    "WHILE": "calibration does not look into loops",
}


def input_names(model: keras.Model) -> tuple[str, ...]:
    """`("x",)`, or `("x0", "x1", ...)` for several inputs in Keras's order; a file's own names for its."""
    inputs = _inputs(model)
    file = foreign_model.file_of(model)
    return _names("x", "x", len(inputs)) if file is None else tuple(file.specs)


def freeze(model: keras.Model, folder: Path, recipe: Recipe) -> None:
    """Writes the inference graph of a model as a SavedModel with the signature `infer`.

    A fixed batch of 1 spares the file the operators that compute shapes; weights that are constants, and not
    variables, are what the converter's fused LSTM needs.

    Raises:
        QuantizationError: The model is not built, or is neither Sequential nor functional.
        DynamicShapeError: A size other than the batch is open.
        UnsupportedLayerError: A layer has no form in the recipe's arithmetic.
    """
    check(model, recipe)
    specs = {
        name: tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype, name=name)
        for name, tensor in zip(input_names(model), _inputs(model), strict=True)
    }
    trainable = [variable.numpy() for variable in model.trainable_variables]
    others = [variable.numpy() for variable in model.non_trainable_variables]

    def infer(**inputs: Any) -> dict[str, Any]:
        values = list(inputs.values())
        outputs, _ = model.stateless_call(
            [tf.constant(value) for value in trainable],
            [tf.constant(value) for value in others],
            values[0] if len(values) == 1 else values,
            training=False,
        )
        flat = keras.tree.flatten(outputs)
        return dict(zip(_names("output", "output", len(flat)), flat, strict=True))

    module = tf.Module()
    module.saved_models = foreign_model.saved_models_of(model)
    with convertible_recurrence(fuse=recipe.fuses_lstm, unroll=recipe.needs_calibration):
        module.infer = tf.function(infer, autograph=False)
        function = module.infer.get_concrete_function(**specs)
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})


def check(model: keras.Model, recipe: Recipe) -> None:
    """Finds what the recipe cannot convert before the converter does.

    Raises:
        QuantizationError: The model is not built, or is neither Sequential nor functional.
        DynamicShapeError: A size other than the batch is open.
        UnsupportedLayerError: A layer has no form in the recipe's arithmetic.
    """
    for tensor in _inputs(model):
        if None in tensor.shape[1:]:
            raise DynamicShapeError(
                f"Expected sizes that are fixed but for the batch, received the input {tensor.name!r} of "
                f"shape {tuple(tensor.shape)}.",
            )
    if recipe.activations == "float32":
        return
    file = foreign_model.file_of(model)
    if file is not None:
        for name in set(file.operators) & set(_FLOAT_ONLY_OPERATORS):
            obstacle = _FLOAT_ONLY_OPERATORS[name]
            raise UnsupportedLayerError(
                f"The operator {name} of {file.file.name!r} cannot be {recipe.name}: {obstacle}."
            )
    for layer in model._flatten_layers():
        reason = _FLOAT_ONLY.get(type(layer).__name__)
        if reason:
            raise UnsupportedLayerError(
                f"The layer {layer.name!r} ({type(layer).__name__}) cannot be {recipe.name}: {reason}.",
                layer=layer.name,
            )


def _inputs(model: keras.Model) -> list[Any]:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise QuantizationError(
            f"Expected a Sequential or functional model whose input is known, received "
            f"{type(model).__name__} {model.name!r}.",
            remedy="Give it an Input, or build() it.",
        )
    return list(inputs)


def _names(one: str, many: str, count: int) -> tuple[str, ...]:
    return (one,) if count == 1 else tuple(f"{many}{number}" for number in range(count))
