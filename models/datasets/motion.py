"""Shoulder exercises recorded by a smartwatch: the watch data that seglearn brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .dataset import Dataset
from .package import data_file

STEPS_PER_WINDOW = 100
STEPS_BETWEEN_WINDOWS = 50
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}


@dataclass(frozen=True, slots=True, eq=False)
class Recordings:
    """Time series, each of one person doing one exercise.

    Attributes:
        series: float32 [T, 6] each, at 50 Hz: acceleration x, y, z in g and rotation x, y, z in rad/s.
        y: int32 [S], the exercise of each series.
        people: int64 [S], whose series it is.
        labels: The name of each exercise.
    """

    series: tuple[npt.NDArray[np.float32], ...]
    y: npt.NDArray[np.int32]
    people: npt.NDArray[np.int64]
    labels: tuple[str, ...]

    def of(self, people: Sequence[int]) -> Recordings:
        """The series of some of the people."""
        kept = np.flatnonzero(np.isin(self.people, people))
        return Recordings(tuple(self.series[i] for i in kept), self.y[kept], self.people[kept], self.labels)

    def cut(self, share: float) -> tuple[Recordings, Recordings]:
        """Every series cut in time: its first `share`, and the rest. No step is in both."""
        cuts = [round(len(steps) * share) for steps in self.series]
        parts = (
            tuple(steps[:cut] for steps, cut in zip(self.series, cuts, strict=True)),
            tuple(steps[cut:] for steps, cut in zip(self.series, cuts, strict=True)),
        )
        first, rest = (Recordings(part, self.y, self.people, self.labels) for part in parts)
        return first, rest

    def windows(self) -> Dataset:
        """Windows of 100 steps, one every 50, float32 [N, 100, 6]; neighbours share half their steps."""
        cut = [_windows(steps) for steps in self.series]
        counts = [len(windows) for windows in cut]
        return Dataset(
            np.concatenate(cut), np.repeat(self.y, counts), self.labels, np.repeat(self.people, counts)
        )


def watch() -> Recordings:
    """140 series of 10 people: 7 exercises, each with the left and with the right arm; 4,677 windows.

    Source: D. Burns et al., "Shoulder physiotherapy exercise recognition", Physiol. Meas. 39, 2018.

    Raises:
        errors.DatasetError: seglearn is not installed.
    """
    # The file is a pickled dict of arrays; it comes from an installed package, not from the network.
    data = np.load(data_file("seglearn", "data/watch_dataset.npy"), allow_pickle=True).item()
    return Recordings(
        tuple(np.asarray(steps, np.float32) for steps in data["X"]),
        np.asarray(data["y"], np.int32),
        np.asarray(data["subject"], np.int64),
        tuple(EXERCISES[name] for name in data["y_labels"]),
    )


def _windows(steps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    starts = range(0, len(steps) - STEPS_PER_WINDOW + 1, STEPS_BETWEEN_WINDOWS)
    if not starts:
        return np.empty((0, STEPS_PER_WINDOW, steps.shape[1]), np.float32)
    return np.stack([steps[start : start + STEPS_PER_WINDOW] for start in starts])
