"""Calling a Keras model inside a graph with its weights given as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ...errors import DynamicShapeError
from ..gradients import lower
from ..gradients.random import seeded
from ..recurrent import trainable_recurrence
from .normalization import short_normalization


@dataclass(frozen=True, slots=True)
class Call:
    """What a call of a model gave.

    Attributes:
        outputs: The model's outputs, flat.
        updates: New values of weights that the forward pass itself changes, such as moving statistics, by
            path.
        penalties: The model's own regularization losses.
    """

    outputs: list[tf.Tensor]
    updates: dict[str, tf.Tensor]
    penalties: list[tf.Tensor]


def input_specs(model: keras.Model, batch_size: int) -> list[tf.TensorSpec]:
    """The model's inputs, flat, with the batch size put in.

    Raises:
        DynamicShapeError: A size besides the batch is open, or the model has not been built.
    """
    inputs = getattr(model, "inputs", None)
    if inputs:
        shapes = [(tensor.shape, tensor.dtype) for tensor in inputs]
    else:
        config = model.get_build_config() or {}
        if "input_shape" not in config:
            raise DynamicShapeError(
                f"Expected a model whose inputs are known, {model.name!r} has none.",
                remedy="Call the model on an example, or build it, before it is exported.",
            )
        shapes = [(tuple(config["input_shape"]), "float32")]
    for shape, _ in shapes:
        if any(size is None for size in shape[1:]):
            raise DynamicShapeError(
                f"Expected fixed sizes after the batch, the input of {model.name!r} has {tuple(shape)}."
            )
    return [tf.TensorSpec([batch_size, *shape[1:]], dtype) for shape, dtype in shapes]


def call_model(
    model: keras.Model,
    inputs: Sequence[tf.Tensor],
    values: Mapping[str, tf.Tensor],
    *,
    training: bool,
    seed: tf.Tensor | None = None,
) -> Call:
    """Traces the model into the current graph.

    Args:
        model: A built model; it is not changed.
        inputs: One tensor per input of the model.
        values: A tensor for each of ``model.weights``, by path.
        training: Whether layers behave as in training.
        seed: What random operators draw from, int32 [].
    """
    graph = tf.compat.v1.get_default_graph()
    before = {op.name for op in graph.get_operations()}
    weights = {weight.path: weight for weight in model.weights}
    mapping = [(weight, values[path]) for path, weight in weights.items()]
    with tf.init_scope():
        states = [(state, state.numpy()) for state in seed_states(model)]
    mapping += [(state, tf.constant(value)) for state, value in states]
    stateless = keras.StatelessScope(state_mapping=mapping, collect_losses=True)
    with (
        trainable_recurrence(gradients=training),
        short_normalization(),
        _inlined_functions(),
        stateless as scope,
    ):
        outputs = keras.tree.flatten(model(_packed(model, inputs), training=training))
        penalties = list(model.losses)
        updates = {path: scope.get_current_value(weight) for path, weight in weights.items()}
    changed = {path: value for path, value in updates.items() if value is not values[path]}
    with seeded(seed):
        held = lower(graph, [*outputs, *penalties, *changed.values()], training=training, already=before)
    outputs, held = held[: len(outputs)], held[len(outputs) :]
    penalties, held = held[: len(penalties)], held[len(penalties) :]
    return Call(outputs, dict(zip(changed, held, strict=True)), penalties)


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the model's own random generators, which are no weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def draws(model: keras.Model) -> bool:
    """Whether training draws random numbers: a layer keeps a generator and no rate of it is 0."""
    for layer in model._flatten_layers():
        if getattr(layer, "seed_generator", None) is not None:
            rates = [
                getattr(layer, name, None) for name in ("rate", "dropout", "recurrent_dropout", "stddev")
            ]
            known = [rate for rate in rates if isinstance(rate, int | float)]
            if not known or any(known):
                return True
    return False


def _packed(model: keras.Model, inputs: Sequence[tf.Tensor]) -> Any:
    structure = getattr(model, "_inputs_struct", None)
    if structure is None:
        return inputs[0] if len(inputs) == 1 else list(inputs)
    return keras.tree.pack_sequence_as(structure, list(inputs))


@contextmanager
def _inlined_functions() -> Iterator[None]:
    """Traces ``tf.function`` bodies into the graph, so that each of their operators can be replaced."""
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)
