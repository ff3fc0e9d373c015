"""Which weights a training variant changes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import keras

from ...errors import SelectionError

_BIASES = ("bias", "beta")


def select(model: keras.Model, selection: str | Sequence[str]) -> list[keras.Variable]:
    """The trainable weights of a model that a selection names, in Keras's order.

    Args:
        model: A built model.
        selection: ``all``; ``head``, the weights of the last layer that has any; ``bias``, every bias and
            every
            beta of a normalization; or one or several patterns of weight paths, such as ``dense*`` or
            ``*/kernel``. A pattern also matches when it names a layer: ``block3`` is ``block3/*``.

    Raises:
        SelectionError: It matches no trainable weight.
    """
    weights = list(model.trainable_weights)
    if selection == "all":
        chosen = weights
    elif selection == "head":
        chosen = _head(model)
    elif selection == "bias":
        chosen = [weight for weight in weights if weight.name in _BIASES]
    else:
        patterns = [selection] if isinstance(selection, str) else list(selection)
        chosen = [weight for weight in weights if any(_matches(weight.path, pattern) for pattern in patterns)]
    if not chosen:
        paths = ", ".join(weight.path for weight in weights) or "none"
        raise SelectionError(
            f"Expected a selection that matches a trainable weight, received {selection!r}; "
            f"the model has: {paths}."
        )
    return chosen


def frozen_normalizations(model: keras.Model, chosen: Sequence[keras.Variable]) -> list[keras.layers.Layer]:
    """Batch normalizations of which a selection leaves out a weight: they run as in inference.

    Their moving statistics then stay what they are, as Keras does for a layer that is not trainable.
    """
    kept = {id(weight) for weight in chosen}
    whole = kept == {id(weight) for weight in model.trainable_weights}
    layers = [
        layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return [
        layer
        for layer in layers
        if not whole and not (layer.trainable_weights and all(id(w) in kept for w in layer.trainable_weights))
    ]


def _head(model: keras.Model) -> list[keras.Variable]:
    leaves = [layer for layer in model._flatten_layers(recursive=True) if not _has_sublayers(layer)]
    for layer in reversed(leaves):
        if layer.trainable_weights:
            return list(layer.trainable_weights)
    return []


def _has_sublayers(layer: keras.layers.Layer) -> bool:
    return len(list(layer._flatten_layers(include_self=False))) > 0


def _matches(path: str, pattern: str) -> bool:
    return any(
        fnmatchcase(path, full) for full in (pattern, f"{pattern}/*", f"*/{pattern}", f"*/{pattern}/*")
    )
