"""A Keras model that computes with int8's rounding: for fine-tuning.

Weights get one scale per output channel and 255 steps around zero, outputs one scale and 256 steps over
their range, as TFLite's int8 has them (B. Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", CVPR 2018). A per-channel scale is the same before and after a
batch normalization is folded in, so that normalizations stay as they are. Gradients pass the rounding as if
it were not there, and stop at the range's ends.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ..errors import UnsupportedLayerError

_KERNELS = {
    keras.layers.Dense: -1,
    keras.layers.Conv1D: -1,
    keras.layers.Conv2D: -1,
    keras.layers.DepthwiseConv1D: -2,
    keras.layers.DepthwiseConv2D: -2,
}
_MOMENTUM = 0.9


class FakeQuantized(keras.layers.Wrapper):  # type: ignore[misc]
    """A layer with int8's rounding of its kernel and its output.

    The range of the output is a moving average over the batches of training; it holds 0, as int8 ranges do.
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any) -> None:
        super().__init__(layer, name=f"{layer.name}_fake_quantized", **kwargs)
        self._axis = next(axis for kind, axis in _KERNELS.items() if type(layer) is kind)

    def build(self, input_shape: Any) -> None:
        """Builds the layer and the range of its output."""
        super().build(input_shape)
        self._low = self.add_weight(shape=(), initializer="zeros", trainable=False, name="low")
        self._high = self.add_weight(shape=(), initializer="zeros", trainable=False, name="high")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The layer's output, float32 on int8's grid."""
        kernel = self.layer.kernel
        with keras.StatelessScope(state_mapping=[(kernel, quantize_kernel(kernel.value, self._axis))]):
            outputs = self.layer.call(inputs)
        if training:
            low, high = tf.reduce_min(outputs), tf.reduce_max(outputs)
            self._low.assign(_moved(self._low, tf.minimum(low, 0.0)))
            self._high.assign(_moved(self._high, tf.maximum(high, 0.0)))
        empty = self._high - self._low < 1e-8
        low = tf.where(empty, tf.minimum(tf.reduce_min(outputs), 0.0), self._low)
        high = tf.where(empty, tf.maximum(tf.reduce_max(outputs), 1e-6), self._high)
        return tf.quantization.fake_quant_with_min_max_vars(outputs, low, high, num_bits=8)


def _moved(average: Any, value: Any) -> Any:
    first = tf.equal(average, 0.0)
    return tf.where(first, value, _MOMENTUM * average + (1 - _MOMENTUM) * value)


def quantize_kernel(kernel: Any, axis: int) -> Any:
    """A kernel on int8's grid: symmetric, 255 steps, one scale per channel of `axis`."""
    last = len(kernel.shape) - 1
    order = [i for i in range(last + 1) if i != axis % (last + 1)] + [axis % (last + 1)]
    moved = tf.transpose(kernel, order)
    limit = tf.maximum(tf.reduce_max(tf.abs(moved), axis=list(range(last))), 1e-9)
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        moved, -limit, limit, num_bits=8, narrow_range=True
    )
    return tf.transpose(rounded, [order.index(i) for i in range(last + 1)])


def quantizable_layers(model: keras.Model) -> tuple[str, ...]:
    """Names of the layers that have a fake-quantized form, in the model's order."""
    return tuple(layer.name for layer in model.layers if type(layer) in _KERNELS)


def fake_quantize(model: keras.Model) -> keras.Model:
    """A copy of a model in which layers round as int8 does. The copy has weights of its own.

    Args:
        model: A Sequential or functional model.

    Raises:
        UnsupportedLayerError: No layer of the model has a fake-quantized form.
    """
    names = quantizable_layers(model)
    if not names:
        kinds = ", ".join(kind.__name__ for kind in _KERNELS)
        raise UnsupportedLayerError(f"Expected a layer out of {kinds} in {model.name!r}, found none.")

    def copy(layer: keras.Layer) -> keras.Layer:
        fresh = layer.__class__.from_config(layer.get_config())
        return FakeQuantized(fresh) if layer.name in names else fresh

    copied = keras.models.clone_model(model, clone_function=copy)
    copy_weights(model, copied)
    return copied


def copy_weights(source: keras.Model, destination: keras.Model) -> None:
    """Copies the weights between a model and its fake-quantized copy, in either direction."""
    for one, other in zip(_plain(source), _plain(destination), strict=True):
        other.set_weights(one.get_weights())


def _plain(model: keras.Model) -> list[keras.Layer]:
    return [layer.layer if isinstance(layer, FakeQuantized) else layer for layer in model.layers]
