"""Weights that belong to this device alone: trained here, kept here, never sent.

What a strategy sees of them is what it sent itself. Collins et al., "Exploiting Shared Representations for
Personalized Federated Learning" (2021): a common body, a head for each device.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import TrainingDataError
from ..protocol.blobs import write_durably

Weights = dict[str, NDArray[Any]]
logger = logging.getLogger(__name__)


class PersonalWeights:
    """The device's own part of a model, on disk.

    The file holds it as it was before the last training and after it: a task that is done again, because the
    device was killed before its result was safe, begins where it began the first time.

    Args:
        path: The file.
        patterns: Of the paths of the weights that are personal, as in `fnmatch`.
    """

    def __init__(self, path: Path, patterns: tuple[str, ...]) -> None:
        self._path = path
        self._patterns = patterns

    def names(self, weights: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
        """Which weights of a model are personal.

        Raises:
            TrainingDataError: A pattern matches none: the model is another one than the device's owner
                thinks, and what should stay here would leave.
        """
        for pattern in self._patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in weights):
                raise TrainingDataError(
                    f"Expected weights that match the personal pattern {pattern!r}, received a model with "
                    f"{', '.join(weights)}.",
                    remedy="Correct `personal` in agent.toml.",
                )
        return tuple(
            name for name in weights if any(fnmatch.fnmatchcase(name, one) for one in self._patterns)
        )

    def merged(self, weights: Weights, task: str) -> Weights:
        """The model that was sent, with this device's own part in its place."""
        names = self.names(weights)
        kept = self._read(task) if names else {}
        fitting = {name: kept[name] for name in names if name in kept and _alike(kept[name], weights[name])}
        return weights | fitting

    def keep(self, before: Weights, after: Weights, task: str) -> None:
        """Remembers the personal part of a finished training. Durable on return.

        Args:
            before: The model that the task's training began with.
            after: The model it ended with.
            task: The task.

        Raises:
            OSError: The disk failed.
        """
        names = self.names(after)
        if not names:
            return
        tensors = {f"before:{name}": before[name] for name in names}
        tensors |= {f"after:{name}": after[name] for name in names}
        write_durably(self._path, save(tensors, {"task": task}))

    def withheld(self, trained: Weights, sent: Weights) -> Weights:
        """What may leave the device: of the personal weights, those that came."""
        return trained | {name: sent[name] for name in self.names(sent)}

    def _read(self, task: str) -> Weights:
        if not self._path.exists():
            return {}
        try:
            with safe_open(self._path, framework="numpy") as file:
                prefix = "before:" if file.metadata().get("task") == task else "after:"
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
                return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, AttributeError) as error:
            logger.warning("the personal weights are damaged, the coordinator's take their place: %s", error)
            return {}


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
