"""A Keras model as one ``.tflite`` file that trains."""

from .export import TrainableInfo, export_trainable

__all__ = ["TrainableInfo", "export_trainable"]
