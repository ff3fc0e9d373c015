"""Keras models: as trainable files, with their losses, optimizers and gradients."""

from .trainable import TrainableInfo, export_trainable

__all__ = ["TrainableInfo", "export_trainable"]
