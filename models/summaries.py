"""Scalars over time, in the event files that TensorBoard shows.

`tf.summary.scalar` lives in the tensorboard package; the operators that write the files are in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import keras
import tensorflow as tf


class SummaryWriter:
    """Writes scalars into one event file. A context manager: leaving it closes the file.

    Args:
        folder: Made if missing; TensorBoard shows each folder as one run.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = tf.summary.create_file_writer(str(folder))
        self._metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Writes one value for each tag at a step (an epoch, a round); it shows at once."""
        with self._writer.as_default(step=step):
            for tag, value in values.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), metadata=self._metadata)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class EpochSummaries(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes what every epoch came to: Keras's TensorBoard callback without the tensorboard package.

    Args:
        folder: Gets the runs `train` and `validation`, which TensorBoard shows in one picture.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the scalars of one epoch, counted from 1."""
        scalars = {name: float(value) for name, value in (logs or {}).items()}
        held_out = {name[4:]: value for name, value in scalars.items() if name.startswith("val_")}
        train = {name: value for name, value in scalars.items() if not name.startswith("val_")}
        train["learning_rate"] = float(self.model.optimizer.learning_rate)
        for run, values in (("train", train), ("validation", held_out)):
            if values:
                if run not in self._writers:
                    self._writers[run] = SummaryWriter(self._folder / run)
                self._writers[run].scalars(values, step=epoch + 1)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Closes the files."""
        while self._writers:
            self._writers.popitem()[1].close()
