"""Who has which examples: the central set, the devices', and those held out from all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import errors
from . import split
from .dataset import Dataset
from .digits import PREPROCESSING as DIGITS_PREPROCESSING
from .digits import mnist
from .motion import STEPS_PER_WINDOW, Recordings, watch

DEVICE_TEST_SHARE = 0.2
FEWEST_TRAINING_EXAMPLES = 8
FEWEST_TEST_EXAMPLES = 2
CENTRAL_PEOPLE = 3
MOTION_TRAINING_SHARE = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class DeviceData:
    """The examples of one device, which never leave it.

    Attributes:
        name: The device's id.
        train: What it trains on.
        test: What it evaluates on; no example of it is in anybody's `train`.
    """

    name: str
    train: Dataset
    test: Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """A data set dealt out to a central trainer, devices and the final test.

    Attributes:
        central: What the model is first trained on.
        calibration: Examples of `central` that quantization may look at.
        test: Held out from everybody; what releases are compared on.
        devices: What each device has.
        preprocessing: How raw data become `x`, in words and numbers.
    """

    central: Dataset
    calibration: Dataset
    test: Dataset
    devices: tuple[DeviceData, ...]
    preprocessing: str


def federate_digits(
    *,
    devices: int = 8,
    alpha: float = 0.5,
    seed: int = 0,
    held_out: int = 1000,
    central: int = 400,
    calibration: int = 200,
) -> Federation:
    """MNIST digits over devices that each know a different mixture of them.

    Whether an example is for training or for testing depends on the seed alone, not on the number of devices.

    Args:
        devices: How many devices.
        alpha: Of the Dirichlet distribution; smaller is less alike.
        seed: Of every choice.
        held_out: Examples for the final test.
        central: Examples for central training.
        calibration: How many of the central examples calibrate quantization.

    Raises:
        errors.UsageError: A number is out of its range, or there are too few examples for so many devices.
        errors.DatasetError: The data set is not installed.
    """
    digits = mnist()
    seeds = [int(state) for state in np.random.SeedSequence(seed).generate_state(7)]
    rest, test = _hold_out(digits, held_out, seeds[0])
    pool, center = _hold_out(rest, central, seeds[1])
    train, device_test = _hold_out(pool, round(len(pool) * DEVICE_TEST_SHARE), seeds[2])
    shares = split.dirichlet_shares(len(digits.labels), devices, alpha=alpha, seed=seeds[3])
    trains = split.by_shares(train.y, shares, minimum=FEWEST_TRAINING_EXAMPLES, seed=seeds[4])
    tests = split.by_shares(device_test.y, shares, minimum=FEWEST_TEST_EXAMPLES, seed=seeds[5])
    return Federation(
        central=center,
        calibration=_hold_out(center, calibration, seeds[6])[1],
        test=test,
        devices=tuple(
            DeviceData(f"device-{number:02d}", train.take(own), device_test.take(own_test))
            for number, (own, own_test) in enumerate(zip(trains, tests, strict=True), start=1)
        ),
        preprocessing=DIGITS_PREPROCESSING,
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
    train, test = recordings.cut(MOTION_TRAINING_SHARE)
    central = train.of(center).windows()
    members = tuple(
        DeviceData(f"person-{person:02d}", train.of([person]).windows(), test.of([person]).windows())
        for person in others[:devices]
    )
    return Federation(
        central=central,
        calibration=_hold_out(central, calibration, seed)[1],
        test=test.windows(),
        devices=members,
        preprocessing=preprocessing,
    )


def _hold_out(dataset: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    stay, held = split.holdout(dataset.y, size, seed=seed)
    return dataset.take(stay), dataset.take(held)


def _standardised(recordings: Recordings, center: list[int]) -> tuple[Recordings, str]:
    """The recordings with mean 0 and deviation 1 per axis over what central training sees of its people."""
    seen = np.concatenate(recordings.of(center).cut(MOTION_TRAINING_SHARE)[0].series)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    series = tuple((steps - mean) / deviation for steps in recordings.series)
    preprocessing = (
        f"{STEPS_PER_WINDOW} steps at 50 Hz of acceleration x, y, z in g and rotation x, y, z in rad/s, "
        f"x = (raw - mean) / deviation, mean = {_numbers(mean)}, deviation = {_numbers(deviation)}"
    )
    return Recordings(series, recordings.y, recordings.people, recordings.labels), preprocessing


def _numbers(values: npt.NDArray[np.float32]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
