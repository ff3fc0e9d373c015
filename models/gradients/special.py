"""Functions that TFLite lacks, forward and backward."""

from __future__ import annotations

import math

import tensorflow as tf

from .registry import gradient, lowering

# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error at most 1.5e-7.
_ERF_SCALE = 0.3275911
_ERF_SERIES = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@lowering("Erf", note="Abramowitz and Stegun 7.1.26, within 1.5e-7")
def erf(op: tf.Operation, training: bool) -> tf.Tensor:
    """The error function."""
    return _erf(op.inputs[0])


@lowering("Erfc", note="1 - erf(x)")
def erfc(op: tf.Operation, training: bool) -> tf.Tensor:
    """The complementary error function: what Keras's gelu is made of."""
    return 1.0 - _erf(op.inputs[0])


@gradient("Softsign", note="dy / (1 + |x|) ** 2")
def softsign(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """From the input."""
    return dy / tf.square(1.0 + tf.abs(op.inputs[0]))


def _erf(x: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def evaluate(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        bell = tf.exp(-x * x)
        t = 1.0 / (1.0 + _ERF_SCALE * tf.abs(x))
        series = tf.zeros_like(t)
        for coefficient in reversed(_ERF_SERIES):
            series = (series + coefficient) * t
        return tf.sign(x) * (1.0 - series * bell), lambda dy: dy * bell * (2.0 / math.sqrt(math.pi))

    return evaluate(x)
