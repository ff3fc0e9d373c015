"""Keras's own image sets, which it fetches from the network once and then keeps."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import Any

import numpy as np

from ... import errors
from .dataset import Array, Dataset

PREFIX = "keras:"

_DIGITS = tuple("0123456789")
_CLOTHES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_LABELS = {
    "mnist": _DIGITS,
    "fashion_mnist": _CLOTHES,
    "cifar10": _THINGS,
    "cifar100": tuple(f"class {number}" for number in range(100)),
}


def keras_data(source: str) -> tuple[Dataset, Dataset]:
    """The training and the test part of one of Keras's image sets, as their authors divided them.

    Args:
        source: `keras:` and a name, such as `keras:fashion_mnist`.

    Returns:
        Two sets with float32 images [N, height, width, channels] in [0, 1].

    Raises:
        errors.DatasetError: There is no such set, or it is neither here nor can be fetched.
    """
    name = source.removeprefix(PREFIX).replace("-", "_")
    if name not in _LABELS:
        raise errors.DatasetError(
            f"Expected one of {', '.join(PREFIX + known for known in _LABELS)}, received {source!r}.",
            remedy="Choose one of the names listed, or give a file or a folder.",
        )
    module: Any = import_module(f"keras.datasets.{name}")
    try:
        # Keras tells on standard output what it fetches; that is for a command's own answer.
        with contextlib.redirect_stdout(sys.stderr):
            parts = module.load_data()
    except Exception as error:  # Keras raises plain exceptions where it cannot fetch.
        raise errors.DatasetError(
            f"Expected {source} on this machine, or a network to fetch it from; received: "
            f"{' '.join(str(error).split())[:300]}.",
            remedy="Run this once with a network, or copy ~/.keras/datasets from a machine that has it.",
        ) from error
    train, test = (_images(x, y, _LABELS[name]) for x, y in parts)
    return train, test


def _images(x: Array, y: Array, labels: tuple[str, ...]) -> Dataset:
    pixels = x.astype(np.float32) / 255
    return Dataset(pixels[..., None] if x.ndim == 3 else pixels, y.reshape(-1).astype(np.int32), labels)
