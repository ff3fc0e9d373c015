"""Number words in English and French, spelt by num2words; each device counts in a thousand of its own."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import errors
from .dataset import Dataset
from .federation import DeviceData, Federation

LARGEST = 10_000
SOURCE_STEPS = 6
TARGET_STEPS = 9
END = "<end>"
START = "<start>"

PREPROCESSING = (
    "x0: 6 English words as numbers, 0 after the end; x1: 9 French words so far, beginning with the start"
)


@cache
def spell(number: int, language: str) -> tuple[str, ...]:
    """The words of a number, hyphens and commas taken apart and the English `and` left out.

    Raises:
        errors.DatasetError: num2words is not installed.
    """
    try:
        library: Any = import_module("num2words")
    except ImportError as error:
        raise errors.DatasetError(
            "Expected the package num2words, which is not installed.",
            remedy="Install the zoo's data sets: pip install 'hedgerow[zoo]'.",
        ) from error
    words = re.findall(r"[^\W\d_]+", library.num2words(number, lang=language))
    return tuple(word for word in words if word != "and")


def vocabulary(language: str) -> tuple[str, ...]:
    """All words of the numbers below 10,000 after the end and the start, in alphabetical order."""
    known = {word for number in [*range(100), 100, 200, 1000, 2000] for word in spell(number, language)}
    return (END, START, *sorted(known))


def translations(numbers: npt.NDArray[np.int64]) -> Dataset:
    """English words [N, 6], French words so far [N, 9], and the French word that comes next [N, 9]."""
    english, french = (
        {word: place for place, word in enumerate(vocabulary(language))} for language in ("en", "fr")
    )
    x = np.zeros((len(numbers), SOURCE_STEPS), np.int32)
    y = np.zeros((len(numbers), TARGET_STEPS), np.int32)
    for row, number in enumerate(map(int, numbers)):
        source, target = spell(number, "en"), spell(number, "fr")
        x[row, : len(source)] = [english[word] for word in source]
        y[row, : len(target)] = [french[word] for word in target]
    so_far = np.concatenate([np.full((len(y), 1), french[START], np.int32), y[:, :-1]], axis=1)
    return Dataset(x, y, tuple(french), more=(so_far,))


def federate_numbers(*, devices: int | None = None, seed: int = 0) -> Federation:
    """600 of the first thousand and 200 of all centrally; 300 of a further thousand on each device.

    Args:
        devices: How many of the nine other thousands have a device; by default all.
        seed: Of every choice.

    Raises:
        errors.UsageError: `devices` is not between 1 and 9.
        errors.DatasetError: num2words is not installed.
    """
    wanted = 9 if devices is None else devices
    if not 1 <= wanted <= 9:
        raise errors.UsageError(f"Expected 1 to 9 devices, one for each further thousand, received {wanted}.")
    random = np.random.default_rng(seed)
    order = random.permutation(LARGEST)
    test, pool = order[:300], order[300:]
    thousands = pool // 1000
    first, spread = pool[thousands == 0][:600], pool[-200:]
    central = translations(np.concatenate([first, spread]))
    members = []
    for thousand in range(1, wanted + 1):
        own = pool[:-200][thousands[:-200] == thousand][:350]
        members.append(DeviceData(f"thousand-{thousand}", translations(own[:300]), translations(own[300:])))
    return Federation(
        central=central,
        calibration=central.take(random.choice(len(central), 100, replace=False)),
        test=translations(test),
        devices=tuple(members),
        preprocessing=PREPROCESSING,
    )
