"""Find an optimizer by its Keras name, or from a Keras optimizer."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from ...errors import OptimizerError
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .sgd import SGD, Momentum

_CLASSES: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, Momentum, Adam, AdamW)}

NAMES = (*_CLASSES, "nesterov")
"""The optimizers there are."""

_KERAS_ONLY = {
    "amsgrad": False,
    "clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "gradient_accumulation_steps": None,
    "loss_scale_factor": None,
}
"""What Keras's optimizers also take, with the value at which it changes nothing."""


def get(spec: str | Optimizer | keras.optimizers.Optimizer, **hyperparameters: Any) -> Optimizer:
    """The optimizer named or described by `spec`.

    Args:
        spec: One of `NAMES`, an Optimizer, or an object of `keras.optimizers`, of which the learning rate is
            not taken: that is an input of every step.
        **hyperparameters: What the optimizer's own class takes. As in Keras, `sgd` takes `momentum` and
            `nesterov`, and with a momentum of 0 is plain gradient descent.

    Raises:
        OptimizerError: No such optimizer, or a hyperparameter it does not have or that is out of range.
    """
    if isinstance(spec, keras.optimizers.Optimizer):
        return _from_keras(spec, hyperparameters)
    if isinstance(spec, str):
        return _build(spec.lower(), hyperparameters)
    if not isinstance(spec, Optimizer):
        raise OptimizerError(f"Expected the name of an optimizer or an optimizer, received {spec!r}.")
    if hyperparameters:
        raise OptimizerError(
            f"Expected no hyperparameters beside a {type(spec).__name__}, received {hyperparameters}."
        )
    return spec


def _build(name: str, hyperparameters: dict[str, Any]) -> Optimizer:
    if name not in NAMES:
        raise OptimizerError(f"Expected one of {', '.join(NAMES)}, received optimizer {name!r}.")
    if name == "nesterov":
        name, hyperparameters = "momentum", {"nesterov": True, **hyperparameters}
    if name == "sgd":
        if hyperparameters.get("momentum"):
            name = "momentum"
        else:
            hyperparameters = {
                key: value for key, value in hyperparameters.items() if key not in ("momentum", "nesterov")
            }
    kind = _CLASSES[name]
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(hyperparameters) - set(known)):
        raise OptimizerError(f"{name} takes {', '.join(known)}, received {', '.join(unknown)}.")
    return kind(**hyperparameters)


def _from_keras(optimizer: keras.optimizers.Optimizer, hyperparameters: dict[str, Any]) -> Optimizer:
    """Translate by class and configuration; what would change the steps and has no counterpart is refused."""
    name, config = type(optimizer).__name__.lower(), optimizer.get_config()
    for key, harmless in _KERAS_ONLY.items():
        if config.get(key, harmless) != harmless:
            raise OptimizerError(f"{name} cannot take {key}={config[key]!r} from {type(optimizer).__name__}.")
    if name not in _CLASSES:
        raise OptimizerError(f"Expected one of {', '.join(NAMES)}, received {type(optimizer).__name__}.")
    taken = ("momentum", "nesterov", "beta_1", "beta_2", "epsilon", "weight_decay", "global_clipnorm")
    return _build(name, {key: config[key] for key in taken if key in config} | hyperparameters)
