"""Random numbers on the device, from a seed it is given.

TFLite's own generator takes its seed at conversion, so every device would draw the same numbers. Instead each
element's index is hashed with the seed and the operator's name (the finalizer of MurmurHash3, which mixes
every bit of 32 into every other), in unsigned 32-bit built-in operators that both runtimes compute alike.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf

from ...errors import UncoveredOperatorError
from .registry import lowering
from .window import static_shape

_ROW = 1024
_seed: ContextVar[tf.Tensor | None] = ContextVar("seed", default=None)


@contextmanager
def seeded(seed: tf.Tensor | None) -> Iterator[None]:
    """Makes random operators that are lowered inside the context draw from a seed, int32 []."""
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


@lowering("StatelessRandomUniformV2", note="a hash of the element's index and the seed")
def uniform(op: tf.Operation, training: bool) -> tf.Tensor:
    """Multiples of 2 ** -24 in [0, 1)."""
    return tf.reshape(_uniform(op, _count(op), ""), static_shape(op.outputs[0]))


@lowering("StatelessRandomNormalV2", note="Box and Muller's transform of two hashes")
def normal(op: tf.Operation, training: bool) -> tf.Tensor:
    """Of mean 0 and variance 1."""
    count = _count(op)
    radius = tf.sqrt(-2.0 * tf.math.log(_uniform(op, count, "radius") + 2.0**-25))
    angle = _uniform(op, count, "angle") * (2.0 * math.pi)
    return tf.reshape(radius * tf.cos(angle), static_shape(op.outputs[0]))


def _count(op: tf.Operation) -> int:
    return math.prod(static_shape(op.outputs[0]))


def _uniform(op: tf.Operation, count: int, salt: str) -> tf.Tensor:
    seed = _seed.get()
    if seed is None:
        raise UncoveredOperatorError(
            f"Expected random numbers in training only, and from a keras.random.SeedGenerator that the layer "
            f"keeps; {op.name!r} draws others.",
            layer=op.name,
        )
    rows = -(-count // _ROW)
    start = _mix(tf.cast(seed, tf.uint32) + tf.constant(zlib.crc32((op.name + salt).encode()), tf.uint32))
    # Two short constants and the seed: a constant of every index would be stored in the file.
    row = tf.reshape(tf.range(rows, dtype=tf.int32) * _ROW, [rows, 1])
    column = tf.reshape(tf.range(min(count, _ROW), dtype=tf.int32), [1, -1])
    index = (tf.cast(row, tf.uint32) + start) + tf.cast(column, tf.uint32)
    bits = tf.reshape(_mix(index), [-1])
    if count % _ROW and rows > 1:
        bits = tf.slice(bits, [0], [count])
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _mix(bits: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)))
        bits = bits * tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))
