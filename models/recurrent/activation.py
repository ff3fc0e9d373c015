"""Activation functions whose slope can be told from their output: the backward pass keeps no input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function of a recurrent cell.

    Attributes:
        name: Keras's name of it.
        value: The function, elementwise.
        slope: Its derivative as a function of its *output*, elementwise.
    """

    name: str
    value: Callable[[tf.Tensor], tf.Tensor]
    slope: Callable[[tf.Tensor], tf.Tensor]


def _hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


_ACTIVATIONS: dict[object, Activation] = {
    keras.activations.tanh: Activation("tanh", tf.tanh, lambda y: 1.0 - y * y),
    keras.activations.sigmoid: Activation("sigmoid", tf.sigmoid, lambda y: y * (1.0 - y)),
    keras.activations.linear: Activation("linear", lambda x: x, tf.ones_like),
    keras.activations.relu: Activation("relu", tf.nn.relu, tf.sign),
    keras.activations.hard_sigmoid: Activation(
        "hard_sigmoid", _hard_sigmoid, lambda y: tf.sign(y * (1.0 - y)) * (1.0 / 6.0)
    ),
}


def activation_of(function: object) -> Activation | None:
    """Finds the activation for a cell's Keras function, or None if its slope needs more than its output."""
    return _ACTIVATIONS.get(function)
