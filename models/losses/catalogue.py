"""Find a loss by its Keras name, or from a Keras loss object."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from ...errors import LossError
from .crossentropy import BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy
from .ctc import CTC
from .embedding import Contrastive, Triplet
from .loss import Loss
from .regression import CosineSimilarity, Huber, MeanAbsoluteError, MeanSquaredError

_CLASSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        SparseCategoricalCrossentropy,
        CategoricalCrossentropy,
        BinaryCrossentropy,
        MeanSquaredError,
        MeanAbsoluteError,
        Huber,
        CosineSimilarity,
        Triplet,
        Contrastive,
        CTC,
    )
}
_ALIASES = {"mse": "mean_squared_error", "mae": "mean_absolute_error", "bce": "binary_crossentropy"}

NAMES = tuple(_CLASSES)
"""The losses there are, under Keras's names."""


def get(spec: str | Loss | keras.losses.Loss, **hyperparameters: Any) -> Loss:
    """The loss named or described by `spec`.

    Args:
        spec: One of `NAMES` (or Keras's `mse`, `mae`, `bce`), a Loss, or an object of `keras.losses`.
        **hyperparameters: What the loss's own class takes, e.g. `delta` of huber.

    Raises:
        LossError: No such loss, or a hyperparameter it does not have or that is out of range.
    """
    if isinstance(spec, keras.losses.Loss):
        return _from_keras(spec)
    if isinstance(spec, str):
        return _build(_ALIASES.get(spec, spec), hyperparameters)
    if hyperparameters:
        raise LossError(
            f"Expected no hyperparameters beside a {type(spec).__name__}, received {hyperparameters}."
        )
    if not isinstance(spec, Loss):
        raise LossError(f"Expected the name of a loss or a loss, received {spec!r}.")
    return spec


def for_model(spec: str | Loss, model: keras.Model) -> Loss:
    """The loss of `spec`; one that is only named reads logits where the model ends in no activation.

    Raises:
        LossError: There is no loss of that name.
    """
    loss = get(spec)
    ends_in = getattr(model.layers[-1], "activation", None)
    if not isinstance(spec, str) or loss.activation is None or ends_in is not keras.activations.linear:
        return loss
    return dataclasses.replace(loss, from_logits=True)


def _build(name: str, hyperparameters: dict[str, Any]) -> Loss:
    if name not in _CLASSES:
        raise LossError(f"Expected one of {', '.join(NAMES)}, received loss {name!r}.")
    kind = _CLASSES[name]
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(hyperparameters) - set(known)):
        raise LossError(f"{name} takes {', '.join(known)}, received {', '.join(unknown)}.")
    return kind(**hyperparameters)


def _from_keras(loss: keras.losses.Loss) -> Loss:
    """Translate by class and configuration; what would change the value and has no counterpart is refused."""
    config = loss.get_config()
    name = _keras_name(type(loss))
    if name not in _CLASSES:
        raise LossError(f"Expected one of {', '.join(NAMES)}, received {type(loss).__name__}.")
    if config.pop("reduction", None) not in ("sum_over_batch_size", "mean"):
        raise LossError(f"Expected {name} with reduction='sum_over_batch_size', received {loss.reduction!r}.")
    known = {field.name for field in dataclasses.fields(_CLASSES[name])}
    defaults = type(loss)().get_config()
    changed = {key for key, value in config.items() if value != defaults.get(key) and key != "name"}
    if unknown := sorted(changed - known):
        raise LossError(f"{name} cannot take {', '.join(unknown)} from {type(loss).__name__} with {config}.")
    return _build(name, {key: value for key, value in config.items() if key in known})


def _keras_name(kind: type) -> str:
    """Keras's function name of a loss class, e.g. `mean_squared_error` of MeanSquaredError."""
    if kind is keras.losses.CTC:
        return "ctc"
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in kind.__name__).lstrip(
        "_"
    )
