"""Where a training stands, on disk: killed at any moment, it goes on from there with the same numbers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..protocol.blobs import write_durably
from .assignment import Assignment
from .trainer import FitProgress, Trainer

# Writing a checkpoint takes at most this part of the time.
SHARE_OF_TIME = 0.02
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training stands.

    Args:
        progress: Steps and sums so far; the random numbers follow from the seed and the steps.
        weights: By Keras path.
        slots: The optimizer's, by their names in the file.
    """

    progress: FitProgress
    weights: dict[str, NDArray[Any]]
    slots: dict[str, NDArray[Any]]

    def restore(self, trainer: Trainer) -> None:
        """Puts a trainer that has the task's own weights where the training stood."""
        trainer.set_weights(self.weights)
        # The anchor of FedProx, which setting weights moves, is one of the slots.
        trainer.set_slots(self.slots)


class CheckpointFile:
    """The checkpoint of one task.

    Args:
        folder: Made if missing; the checkpoints of other tasks in it are removed.
        assignment: The task and its files: with another one nothing is found.
        seconds: Between two checkpoints, or more where writing takes long; 0 is one after every step.
    """

    def __init__(self, folder: Path, assignment: Assignment, *, seconds: float) -> None:
        task = assignment.task
        key = msgspec.json.encode((task.task, task.program, task.weights, task.config), order="sorted")
        self._path = folder / hashlib.sha256(key).hexdigest()
        self._seconds = seconds
        self._due_at = time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.iterdir():
            if other != self._path:
                other.unlink(missing_ok=True)

    def read(self) -> Checkpoint | None:
        """The last checkpoint; None where there is none, or none that can be read."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="numpy") as file:
                progress = msgspec.json.decode(file.metadata()["progress"], type=FitProgress)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, msgspec.MsgspecError, KeyError, TypeError) as error:
            logger.warning("the checkpoint is damaged, the training begins anew: %s", error)
            return None
        weights = {name[2:]: value for name, value in tensors.items() if name.startswith("w:")}
        slots = {name[2:]: value for name, value in tensors.items() if name.startswith("s:")}
        return Checkpoint(progress, weights, slots)

    def write_if_due(self, trainer: Trainer, progress: FitProgress) -> None:
        """Writes a checkpoint if it is time for one."""
        if time.monotonic() >= self._due_at:
            self.write(trainer, progress)

    def write(self, trainer: Trainer, progress: FitProgress) -> None:
        """Writes a checkpoint; a disk that refuses is logged, for the training itself goes on."""
        begun = time.monotonic()
        tensors = {f"w:{name}": value for name, value in trainer.get_weights().items()}
        tensors |= {f"s:{name}": value for name, value in trainer.get_slots().items()}
        metadata = {"progress": msgspec.json.encode(progress).decode()}
        try:
            write_durably(self._path, save(tensors, metadata))
        except OSError as error:
            logger.warning("no checkpoint can be written: %s", error)
        now = time.monotonic()
        self._due_at = now + (max(self._seconds, (now - begun) / SHARE_OF_TIME) if self._seconds else 0.0)

    def remove(self) -> None:
        """The training is done."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
