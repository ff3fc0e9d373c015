"""Which devices a training runs on: this machine's processor, its GPUs, or those of several machines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..errors import UsageError
from .datasets import Dataset


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where a training runs.

    Attributes:
        strategy: TensorFlow's strategy; build and compile the model in its scope.
        workers: How many processes train together.
        chief: Whether this one writes the files and tells of progress.
    """

    strategy: tf.distribute.Strategy
    workers: int = 1
    chief: bool = True

    @property
    def replicas(self) -> int:
        """How many parts each batch is divided into."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def on_gpu(self) -> bool:
        """Whether the replicas compute on GPUs."""
        return bool(tf.config.list_logical_devices("GPU"))

    def __str__(self) -> str:
        parts = f"{self.replicas} replicas" if self.replicas > 1 else "one replica"
        return f"{parts} in {self.workers} processes" if self.workers > 1 else parts


def distribute(devices: str | None = None) -> Distribution:
    """Chooses the strategy. Call it before anything else of TensorFlow runs.

    Args:
        devices: `all` for every GPU, a number of GPUs, `cpu:2` for so many virtual processors (to try
            distribution out without GPUs), or None for one GPU if there is one. `TF_CONFIG` in the
            environment, in TensorFlow's form, makes this process one worker of several.

    Raises:
        UsageError: There are not so many GPUs, or `TF_CONFIG` cannot be read.
    """
    virtual = re.fullmatch(r"cpu:([1-9]\d*)", devices or "")
    if virtual:
        processor = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(int(virtual[1]))]
        tf.config.set_logical_device_configuration(processor, parts)
    if os.environ.get("TF_CONFIG"):
        return _of_workers(os.environ["TF_CONFIG"])
    if virtual:
        return Distribution(tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(int(virtual[1]))]))
    gpus = tf.config.list_physical_devices("GPU")
    if devices is None:
        return Distribution(tf.distribute.get_strategy())
    wanted = len(gpus) if devices == "all" else _number(devices)
    if not gpus or wanted > len(gpus):
        raise UsageError(
            f"Expected --gpus all or a number of the GPUs of this machine, which has {len(gpus)}; received "
            f"{devices!r}.",
            remedy="Install hedgerow[gpu] and a driver, or leave --gpus out to train on the processor.",
        )
    return Distribution(tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(wanted)]))


def prepare(model: keras.Model, data: Dataset, batch_size: int) -> None:
    """Gives a compiled model the steps of several workers, which Keras's own cannot make.

    Keras 3 averages the first batch, and the metrics of every step, over the replicas along an axis that they
    do not have, where a strategy spans workers. Here the model is built from a batch of this process, and
    scalars are averaged as scalars. Without several workers nothing is changed.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    batch = data.take(np.resize(np.arange(len(data)), batch_size))
    inputs = tuple(map(tf.constant, (batch.x, *batch.more)))
    model._symbolic_build(data_batch=(inputs if batch.more else inputs[0], tf.constant(batch.y)))
    model._maybe_symbolic_build = lambda **_: None
    model.train_function = _step_of_workers(strategy, model.train_step)
    model.test_function = _step_of_workers(strategy, model.test_step)


def _step_of_workers(strategy: tf.distribute.Strategy, step: Callable[[Any], dict[str, Any]]) -> Any:
    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step_of_workers(iterator: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(step, args=(next(iterator),))
        return {name: strategy.reduce("MEAN", value, axis=None) for name, value in logs.items()}

    return step_of_workers


def _of_workers(config: str) -> Distribution:
    try:
        described = json.loads(config)
        workers, task = described["cluster"]["worker"], described["task"]
        index, kind = int(task["index"]), str(task["type"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"Expected TF_CONFIG with cluster.worker and task, received {config[:200]!r}: {error!r}.",
            remedy="See TensorFlow's guide to multi-worker training, or unset TF_CONFIG.",
        ) from error
    if kind != "worker" or not 0 <= index < len(workers):
        raise UsageError(
            f"Expected TF_CONFIG to name a worker of {len(workers)} as the task, received {kind} {index}.",
            remedy="Number the workers from 0; worker 0 is the chief.",
        )
    return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), len(workers), index == 0)


def _number(devices: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", devices):
        raise UsageError(f"Expected --gpus all, a number, or cpu:N, received {devices!r}.")
    return int(devices)
