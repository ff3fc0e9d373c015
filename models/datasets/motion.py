"""Shoulder exercises recorded by a smartwatch: the watch data that seglearn brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import errors
from .dataset import Dataset
from .federation import DeviceData, Federation, hold_out
from .package import data_file

STEPS_PER_WINDOW = 100
STEPS_BETWEEN_WINDOWS = 50
CENTRAL_PEOPLE = 3
TRAINING_SHARE = 0.75
SPECTRUM_STEPS = 20
SPECTRUM_HOP = 10
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


def federate_motion(*, devices: int | None = None, seed: int = 0, calibration: int = 200) -> Federation:
    """Watch recordings, one device per person: three people train centrally, the others on their own devices.

    Each recording is cut in time before it is cut into windows: the first three quarters are for training and
    the last quarter is held out, so no held-out step is in any training window.

    Args:
        devices: How many of the seven other people take part; None for all of them.
        seed: Of who the three central people are, and of the calibration windows.
        calibration: How many of the central windows calibrate quantization.

    Raises:
        errors.UsageError: `devices` is not between 1 and 7.
        errors.DatasetError: The data set is not installed.
    """
    recordings = watch()
    people = np.random.default_rng(seed).permutation(np.unique(recordings.people))
    center, others = sorted(map(int, people[:CENTRAL_PEOPLE])), sorted(map(int, people[CENTRAL_PEOPLE:]))
    if devices is not None and not 1 <= devices <= len(others):
        raise errors.UsageError(
            f"Expected 1 to {len(others)} devices, one for each person outside the central three, "
            f"received {devices}."
        )
    recordings, preprocessing = _standardised(recordings, center)
    train, test = recordings.cut(TRAINING_SHARE)
    central = train.of(center).windows()
    members = tuple(
        DeviceData(f"person-{person:02d}", train.of([person]).windows(), test.of([person]).windows())
        for person in others[:devices]
    )
    return Federation(
        central=central,
        calibration=hold_out(central, calibration, seed)[1],
        test=test.windows(),
        devices=members,
        preprocessing=preprocessing,
    )


def spectrograms(windows: Dataset, seed: int = 0) -> Dataset:
    """The short-time spectra of windows and their changes, float32 [N, 9, 11, 12]: time, frequency, axis.

    Frames of 20 steps under a Hann window, one every 10, as log(1 + magnitude). Frequency 0 has the sign of
    its sum: which way gravity pulls is how the arm is held. Axes 6 to 11 are how the first six change from
    frame to frame, as a speech recognizer's delta coefficients.
    """
    starts = range(0, STEPS_PER_WINDOW - SPECTRUM_STEPS + 1, SPECTRUM_HOP)
    frames = np.stack([windows.x[:, start : start + SPECTRUM_STEPS] for start in starts], axis=1)
    taper = np.hanning(SPECTRUM_STEPS)[:, None]
    spectra = np.fft.rfft(frames * taper, axis=2)
    magnitudes = np.log1p(np.abs(spectra))
    magnitudes[:, :, 0] *= np.sign(spectra[:, :, 0].real)
    changes = np.gradient(magnitudes, axis=1)
    x = np.concatenate([magnitudes, changes], axis=-1).astype(np.float32)
    return Dataset(x, windows.y, windows.labels, windows.groups)


def _standardised(recordings: Recordings, center: list[int]) -> tuple[Recordings, str]:
    """The recordings with mean 0 and deviation 1 per axis over what central training sees of its people."""
    seen = np.concatenate(recordings.of(center).cut(TRAINING_SHARE)[0].series)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    series = tuple((steps - mean) / deviation for steps in recordings.series)
    preprocessing = (
        f"{STEPS_PER_WINDOW} steps at 50 Hz of acceleration x, y, z in g and rotation x, y, z in rad/s, "
        f"x = (raw - mean) / deviation, mean = {_numbers(mean)}, deviation = {_numbers(deviation)}"
    )
    return Recordings(series, recordings.y, recordings.people, recordings.labels), preprocessing


def _numbers(values: npt.NDArray[np.float32]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"


def _windows(steps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    starts = range(0, len(steps) - STEPS_PER_WINDOW + 1, STEPS_BETWEEN_WINDOWS)
    if not starts:
        return np.empty((0, STEPS_PER_WINDOW, steps.shape[1]), np.float32)
    return np.stack([steps[start : start + STEPS_PER_WINDOW] for start in starts])
