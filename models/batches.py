"""Batches whose order follows from the seed and the epoch alone, so that a killed run can go on.

`tf.data.Dataset.shuffle` counts the passes of its process: a second process would begin with the order of the
first epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .datasets import Dataset

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From a batch `x` and a seed, int32 [2], to another batch of the same shape."""


def batches(
    data: Dataset,
    *,
    batch_size: int,
    epochs: range,
    seed: int,
    full: bool = False,
    augment: Augment | None = None,
) -> tf.data.Dataset:
    """The batches of all epochs, one after the other; `steps_of` says how many make one.

    Args:
        data: The examples, in memory.
        batch_size: Examples a batch; the last of an epoch may be shorter.
        epochs: Numbers of the epochs, from 0.
        seed: With the epoch's number, it is what the order and the augmentation follow from.
        full: Leave out a last, shorter batch.
        augment: Changes the first input of each batch.
    """
    inputs = tuple(map(tf.constant, (data.x, *data.more)))
    y = tf.constant(data.y)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(data)), seed=tf.stack([tf.cast(seed, tf.int64), number])
        )
        indices = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=full)
        return indices.enumerate().map(lambda step, rows: (number * 1_000_003 + step, rows))

    def examples(step: tf.Tensor, rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
        taken = tuple(tf.gather(array, rows) for array in inputs)
        if augment is not None:
            own_seed = tf.cast(tf.stack([tf.cast(seed, tf.int64), step]) % (2**31), tf.int32)
            taken = (tf.ensure_shape(augment(taken[0], own_seed), taken[0].shape), *taken[1:])
        return (taken if len(taken) > 1 else taken[0]), tf.gather(y, rows)

    numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    stream = numbers.flat_map(epoch).map(examples, num_parallel_calls=1)
    options = tf.data.Options()
    options.deterministic = True
    # The stream is not a set of files: each worker reads all of it and takes its part of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return stream.with_options(options).prefetch(2)


def steps_of(data: Dataset, batch_size: int, *, full: bool = False) -> int:
    """How many batches make an epoch."""
    whole, rest = divmod(len(data), batch_size)
    return whole if full or not rest else whole + 1
