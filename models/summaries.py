"""Scalars over time, in the event files that TensorBoard shows.

`tf.summary.scalar` lives in the tensorboard package; the operators that write the files are in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

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
