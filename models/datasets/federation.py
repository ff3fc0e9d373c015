"""Who has which examples: the central set, the devices', and those held out from all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ... import errors
from . import split
from .dataset import Dataset, join

DEVICE_TEST_SHARE = 0.2
FEWEST_TRAINING_EXAMPLES = 8
FEWEST_TEST_EXAMPLES = 2


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
        unlabelled: Central examples whose answers nobody knows, for unsupervised pre-training.
    """

    central: Dataset
    calibration: Dataset
    test: Dataset
    devices: tuple[DeviceData, ...]
    preprocessing: str
    unlabelled: Dataset | None = None

    @property
    def everything(self) -> Dataset:
        """All training examples in one place: what a federation is spared from collecting."""
        return join([self.central, *(device.train for device in self.devices)])

    def map(
        self,
        compose: Callable[[Dataset, int], Dataset],
        *,
        preprocessing: str,
        seed: int = 0,
        test: Dataset | None = None,
    ) -> Federation:
        """The federation of another task, each part of which is composed from this one's part alone.

        Args:
            compose: From a part and a seed of its own to the part of the other task.
            preprocessing: Of the other task.
            seed: Of everything that is drawn.
            test: The held-out examples of the other task, where `compose` does not make them.
        """
        parts = [self.central, self.test]
        parts += [part for device in self.devices for part in (device.train, device.test)]
        seeds = np.random.SeedSequence(seed).generate_state(len(parts))
        made = [compose(part, int(own)) for part, own in zip(parts, seeds, strict=True)]
        central, composed_test, *rest = made
        return replace(
            self,
            central=central,
            calibration=central.take(np.arange(min(len(central), len(self.calibration)))),
            test=composed_test if test is None else test,
            devices=tuple(
                DeviceData(device.name, train, own_test)
                for device, train, own_test in zip(self.devices, rest[::2], rest[1::2], strict=True)
            ),
            preprocessing=preprocessing,
        )

    def thin(self, examples: int) -> Federation:
        """The same with at most so many examples in every part, spread over the whole part."""

        def cut(part: Dataset) -> Dataset:
            spread = np.linspace(0, len(part) - 1, min(len(part), examples))
            return part.take(spread.round().astype(np.intp))

        return replace(
            self,
            central=cut(self.central),
            calibration=cut(self.central),
            test=cut(self.test),
            devices=tuple(DeviceData(one.name, cut(one.train), cut(one.test)) for one in self.devices),
            unlabelled=None if self.unlabelled is None else cut(self.unlabelled),
        )


def deal(
    data: Dataset,
    *,
    devices: int,
    alpha: float,
    seed: int,
    held_out: int | Dataset,
    central: int,
    calibration: int,
    preprocessing: str,
) -> Federation:
    """Deals a classification data set over devices that each know a different mixture of the classes.

    Whether an example is for training or for testing depends on the seed alone, not on the number of devices.

    Args:
        data: All examples.
        devices: How many devices.
        alpha: Of the Dirichlet distribution; smaller is less alike.
        seed: Of every choice.
        held_out: How many examples are for the final test, or the ones that the data set's authors set apart.
        central: Examples for central training.
        calibration: How many of the central examples calibrate quantization.
        preprocessing: How raw data become `x`.

    Raises:
        errors.UsageError: A number is out of its range, or there are too few examples for so many devices.
    """
    seeds = [int(state) for state in np.random.SeedSequence(seed).generate_state(7)]
    if isinstance(held_out, Dataset):
        rest, test = data, held_out
    else:
        rest, test = hold_out(data, held_out, seeds[0])
    pool, center = hold_out(rest, central, seeds[1])
    train, device_test = hold_out(pool, round(len(pool) * DEVICE_TEST_SHARE), seeds[2])
    shares = split.dirichlet_shares(len(data.labels), devices, alpha=alpha, seed=seeds[3])
    trains = split.by_shares(train.y, shares, minimum=FEWEST_TRAINING_EXAMPLES, seed=seeds[4])
    tests = split.by_shares(device_test.y, shares, minimum=FEWEST_TEST_EXAMPLES, seed=seeds[5])
    return Federation(
        central=center,
        calibration=hold_out(center, calibration, seeds[6])[1],
        test=test,
        devices=tuple(
            DeviceData(f"device-{number:02d}", train.take(own), device_test.take(own_test))
            for number, (own, own_test) in enumerate(zip(trains, tests, strict=True), start=1)
        ),
        preprocessing=preprocessing,
    )


def hold_out(dataset: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    """What stays, and `size` examples held out, every class in its proportion."""
    stay, held = split.holdout(dataset.y, size, seed=seed)
    return dataset.take(stay), dataset.take(held)


def refuse_alpha(alpha: float | None, by: str) -> None:
    """Passes if no alpha was given, where the split is the real one.

    Raises:
        errors.UsageError: One was.
    """
    if alpha is not None:
        raise errors.UsageError(
            f"Expected no alpha: the data are split by {by}, received {alpha}.",
            remedy="Leave --alpha out for this model.",
        )
