"""What of a training survives kill -9: weights, the optimizer's state and the history so far.

Keras's BackupAndRestore overwrites the weights in place and writes the epoch into a second file: a kill
between the two repeats an epoch on weights that have had it, a kill within loses both. Here one rename takes
a training from one epoch to the next, and the number of the epoch is the optimizer's own count of steps.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import keras

from ..errors import UsageError

History = list[dict[str, float]]
"""What each epoch came to: `loss`, `val_loss` and the metrics by Keras's names, and `seconds`."""

_WEIGHTS = "latest.weights.h5"
_BEST = "best.weights.h5"
_HISTORY = "history.json"
_SETTINGS = "settings.json"


def best_epoch(history: History, monitor: str) -> int:
    """The epoch, from 0, whose monitored loss is the smallest; the first of equals; -1 of none."""
    values = [epoch.get(monitor, math.inf) for epoch in history]
    return values.index(min(values)) if values else -1


def is_patience_over(history: History, monitor: str, patience: int | None) -> bool:
    """Whether the monitored loss has had no new minimum for `patience` epochs."""
    return patience is not None and len(history) - 1 - best_epoch(history, monitor) >= patience > 0


class Backup(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the state of a training after every epoch, and stops it when its patience is over.

    Args:
        folder: Made if missing; each worker of several writes its own, since all have to read the weights
            at the same time.
        source: Where the state is that a training goes on from, which is the chief's; by default `folder`.
        settings: What must be the same when the training goes on.
        steps: Steps of an epoch.
        monitor: The loss that says which epoch is the best.
        patience: Epochs without a better one before the training stops; None for all epochs.

    Attributes:
        history: What every epoch came to, those before a restart too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: dict[str, Any],
        steps: int,
        monitor: str,
        patience: int | None = None,
        source: Path | None = None,
    ) -> None:
        super().__init__()
        self.history: History = []
        self._source = source or folder
        self._folder, self._settings, self._steps = folder, json.loads(json.dumps(settings)), steps
        self._monitor, self._patience = monitor, patience

    def restore(self, model: keras.Model) -> int:
        """Takes up the state that is there, and returns the epoch to begin with, from 0.

        Raises:
            UsageError: The state is that of a training with other settings.
        """
        if not (self._source / _WEIGHTS).is_file():
            return 0
        known = json.loads((self._source / _SETTINGS).read_text())
        if known != self._settings:
            changed = sorted(
                key for key in known.keys() | self._settings if known.get(key) != self._settings.get(key)
            )
            raise UsageError(
                f"Expected the settings of the training in {self._source}, which had "
                + ", ".join(f"{key} {known.get(key)}" for key in changed)
                + "; received "
                + ", ".join(f"{key} {self._settings.get(key)}" for key in changed)
                + ".",
                remedy="Give the same options, or leave --resume out to begin anew.",
            )
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self._source / _WEIGHTS)
        epoch = int(model.optimizer.iterations) // self._steps
        self.history = json.loads((self._source / _HISTORY).read_text())[:epoch]
        return epoch

    def is_over(self) -> bool:
        """Whether the training had stopped by itself."""
        return is_patience_over(self.history, self._monitor, self._patience)

    def restore_best(self, model: keras.Model) -> None:
        """Gives the model the weights of its best epoch."""
        here = self._folder / _BEST
        model.load_weights(here if here.is_file() else self._source / _BEST)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes everything, the weights last: they say which epoch this is."""
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / _SETTINGS, json.dumps(self._settings))
        _replace(self._folder / _HISTORY, json.dumps(self.history))
        if best_epoch(self.history, self._monitor) == len(self.history) - 1:
            self._save(_BEST)
        self._save(_WEIGHTS)
        if self.is_over():
            self.model.stop_training = True

    def _save(self, name: str) -> None:
        partial = self._folder / f"partial.{name}"
        self.model.save_weights(partial)
        partial.replace(self._folder / name)


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
