"""Optimizers that run inside a `.tflite` file."""

from .adam import Adam, AdamW
from .catalogue import NAMES, get
from .optimizer import Optimizer, Slots, Update
from .sgd import SGD, Momentum

__all__ = ["NAMES", "SGD", "Adam", "AdamW", "Momentum", "Optimizer", "Slots", "Update", "get"]
