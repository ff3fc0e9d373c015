"""What an update must be to count. One that is not is refused alone, and the round goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import TensorsError, UpdateError
from ..protocol.messages import Codec, Update
from ..protocol.tensors import DTYPES, Weights, check_like, decode, encode
from .lateness import Lateness
from .records import PhaseRecord

SPARE_BYTES = 1 << 16
Judge = Callable[[Update, Weights], None]


class Rules(Protocol):
    """What the updates of one phase must be."""

    @property
    def bytes_held(self) -> int:
        """What one checked update has in memory at most, until it counts."""

    def check_announced(self, update: Update) -> None:
        """Passes if the announcement fits its task; else `UpdateError`."""

    def weights(self, update: Update, data: bytes) -> Weights:
        """The tensors of a complete update; `TensorsError` if it has none, or none that can count."""

    def metrics_of(self, update: Update) -> dict[str, float]:
        """The metrics that count."""


def check_distance(weights: Weights, start: Weights) -> None:
    """Passes if the square of an update's length is a float32 number.

    FedAdam's and FedYogi's second moment is a sum of such squares: once infinite it would stay so, and the
    model would never move again.

    Raises:
        TensorsError: It is not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        changes = ((value - start[name]).ravel() for name, value in weights.items())
        squares = sum(float(np.dot(change, change)) for change in changes)
    if not squares <= np.finfo(np.float32).max:
        raise TensorsError("Expected an update near the model that was sent, received one out of all bounds.")


@dataclass(frozen=True, slots=True)
class Admission:
    """The rules of one phase of our own agents.

    Args:
        record: The phase.
        start: The weights that were sent out, which every update must be like.
        metrics: The names of metrics that every reply must have; others are left out, since Flower's
            strategies want the same ones in each.
        examples_at_most: No device has more samples.
        bytes_at_most: No update is larger.
        judge: The strategy's own word on an update, a `TensorsError` if it cannot take it.
        lateness: Brings updates of earlier rounds to this one.
    """

    record: PhaseRecord
    start: Weights
    metrics: frozenset[str]
    examples_at_most: int
    bytes_at_most: int
    judge: Judge
    lateness: Lateness

    @property
    def bytes_held(self) -> int:
        """What one checked update has in memory at most, until it counts."""
        return self.bytes_at_most

    @classmethod
    def of(
        cls,
        record: PhaseRecord,
        start: Weights,
        *,
        metrics: frozenset[str],
        examples_at_most: int,
        judge: Judge,
        lateness: Lateness | None = None,
    ) -> Admission:
        """The rules for updates of a model: its own size, and some room for another writer's header."""
        size = len(encode(start)) + SPARE_BYTES
        late = lateness or Lateness(record.round, start)
        return cls(record, start, metrics, examples_at_most, size, judge, late)

    def check_announced(self, update: Update) -> None:
        """Passes if the announcement fits its task, before a byte of the update is asked for.

        Raises:
            UpdateError: It does not.
        """
        train = self.record.phase == "train"
        asked_in = self.lateness.asked_in(update.task)
        if update.round != asked_in:
            raise UpdateError(f"Expected an update of round {asked_in}, received {update.round}.")
        if train != (update.weights is not None):
            expected = "weights" if train else "no weights"
            raise UpdateError(f"Expected {expected} in the update of a {self.record.phase} task.")
        if not 1 <= update.num_examples <= self.examples_at_most:
            raise UpdateError(
                f"Expected num_examples from 1 to {self.examples_at_most}, received {update.num_examples}."
            )
        lacking = sorted(self.metrics - update.metrics.keys())
        if lacking:
            raise UpdateError(
                f"Expected the metrics {', '.join(sorted(self.metrics))}; {lacking} are missing."
            )
        spoilt = sorted(name for name in self.metrics if not math.isfinite(update.metrics[name]))
        if spoilt:
            raise UpdateError(f"Expected finite metrics, received {spoilt} that are not.")
        if update.weights is not None:
            self._check_blob(update.weights.size, update.weights.codec)

    def _check_blob(self, size: int, codec: Codec) -> None:
        if size > self.bytes_at_most:
            raise UpdateError(f"Expected an update of at most {self.bytes_at_most} bytes, received {size}.")
        if codec not in DTYPES:
            raise UpdateError(f"Expected a codec out of {', '.join(DTYPES)}, received {codec!r}.")

    def weights(self, update: Update, data: bytes) -> Weights:
        """The tensors of a complete update.

        Raises:
            TensorsError: They are not those of the model, not finite, or the strategy cannot take them.
        """
        weights = self.lateness.forward(update, check_like(decode(data), self.start))
        check_distance(weights, self.start)
        self.judge(update, weights)
        return weights

    def metrics_of(self, update: Update) -> dict[str, float]:
        """The metrics that count, in the same order for every device."""
        return {name: update.metrics[name] for name in sorted(self.metrics)}
